"""--output, --activation and --grid on every command that loads a model; and what is printed of numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from onnx import TensorProto, helper
from PIL import Image
from typer.testing import CliRunner

import camrt
from camrt.cli.arguments import parse_bytes
from camrt.cli.main import app
from camrt.cli.model_options import OPTIONS, parse_model_options
from camrt.errors import InputError
from helpers.output_endings import BY_NUMBERS, Ending, build_model, identity, make_step
from helpers.zoo import save

LOADING = [
    ("explain",),
    ("inspect",),
    ("export",),
    ("reproduce",),
    ("evaluate", "images"),
    ("evaluate", "walls"),
    ("evaluate", "sanity"),
    ("evaluate", "axioms"),
]


@pytest.mark.parametrize("words", LOADING, ids=" ".join)
def test_every_command_that_loads_a_model_has_them(words):
    command: Any = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    found = {name for parameter in command.params for name in parameter.opts}
    assert {f"--{name.replace('_', '-')}" for name in OPTIONS} <= found


def written(tmp_path: Path, ending: Ending, **more: Any) -> tuple[Path, Path, list[str]]:
    """A file, an image for it, and the options that say how that is prepared."""
    model, whole = build_model(ending)
    for name, shape in more.items():
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    height, width = whole.size[1:]
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    options = ["--preprocessing", "unit", "--size", f"{height}x{width}", "--out", str(tmp_path / "out")]
    return save(model, tmp_path / "model.onnx"), tmp_path / "image.png", options


def said(*words: Any) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def value_of(path: Path, image: Path) -> Any:
    engine = camrt.load(path, preprocessing="unit", activation="none")
    return engine.predict(engine.preprocessing.array(Image.open(image).convert("RGB"))[None])[0]


def test_a_regression_prints_its_value(tmp_path):
    ending = Ending(
        [make_step("Add", "logits far")], identity, identity, {"far": np.float32(40)}, 1, ("N", 1)
    )
    path, image, options = written(tmp_path, ending)
    value = f"{value_of(path, image)[0]:.4g}"
    text = said("explain", path, image, *options)
    assert f": class 0, value {value}, score {value}" in text
    assert "probability" not in text
    assert "no map" not in text
    with np.load(tmp_path / "out" / "explanation.npz") as archive:
        assert np.isnan(archive["probabilities"]).all()
        assert archive["maps"].max() > 0.5


def test_numbers_that_saturate_a_softmax_are_told_with_the_way_out(tmp_path):
    """Three numbers of a regression: which they are the file does not say, so their logit is printed."""
    far = np.array([[100, 0, -100]], np.float32)
    ending = Ending([make_step("Add", "logits far")], identity, identity, {"far": far}, 3, ("N", 3))
    path, image, options = written(tmp_path, ending)
    value = f"{value_of(path, image)[0]:.4g}"
    text = said("explain", path, image, *options)
    assert f"class 0, probability 1.000 of logit {value}" in text
    assert "-O score=logit" in text
    assert "--activation none" in text
    text = said("explain", path, image, *options, "--activation", "none", "--overwrite")
    assert f"class 0, value {value}, score {value}" in text
    assert "no map" not in text
    assert "probability" not in text


def test_the_output_that_is_meant(tmp_path):
    path, image, options = written(tmp_path, BY_NUMBERS["mean-of-two-softmaxes"], p=["N", 4])
    result = CliRunner().invoke(app, ["explain", str(path), str(image), *options])
    assert result.exit_code == 2
    assert "say which with" in " ".join(result.output.split())
    for output, ending in (("scores", "ends in probabilities p (Mul)"), ("p", "ends in Softmax")):
        assert ending in said("inspect", path, "--output", output)
        said("explain", path, image, *options, "--output", output, "--overwrite")
    assert "plain numbers" in said("inspect", path, "--output", "p", "--activation", "none")
    assert "probabilities by sigmoid" in said("inspect", path, "--output", "p", "--activation", "sigmoid")


def test_evaluation_reads_models_alike(tmp_path):
    path, image, options = written(tmp_path, BY_NUMBERS["mean-of-two-softmaxes"], p=["N", 4])
    folder = tmp_path / "classes" / "0"
    folder.mkdir(parents=True)
    Image.open(image).save(folder / "image.png")
    axioms = said("evaluate", "axioms", path, image, *options[:4], "--output", "scores", "-m", "gradcam")
    assert "gradcam" in axioms
    text = [
        "evaluate",
        "images",
        path,
        folder.parent,
        *options,
        "--metrics",
        "drop",
        "--methods",
        "gradcam",
    ]
    result = CliRunner().invoke(app, [str(word) for word in (*text, "--output", "p", "--activation", "none")])
    assert result.exit_code == 2
    assert "metrics are of probabilities" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--activation", "relu"], "--activation relu must be None, 'softmax', 'sigmoid' or 'none'"),
        (["--grid", "7"], "--grid must be HxW, such as 224x224, got '7'"),
        (
            ["--max-memory", "much"],
            "--max-memory must be a number of bytes, such as 2GiB, 500MB or 1000000, got",
        ),
        (["--max-memory", "10"], "--max-memory 10 allows 10 bytes"),
        (["--load-deadline", "0"], "--load-deadline must be seconds above zero, such as 30, or inf for no"),
        (
            ["--call-deadline", "soon"],
            "--call-deadline must be seconds above zero, such as 30, or inf for no",
        ),
        (["--output", "missing"], "there is no output 'missing'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_they_cannot_mean(option, message, tmp_path):
    path, *_ = written(tmp_path, Ending([make_step("Softmax", "logits")], identity, identity))
    result = CliRunner().invoke(app, ["inspect", str(path), *option])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_labels_in_json_still_work_beside_them(tmp_path):
    path, image, options = written(tmp_path, Ending([make_step("Softmax", "logits")], identity, identity))
    names = tmp_path / "names.json"
    names.write_text(json.dumps(["a", "b", "c", "d"]))
    text = said("explain", path, image, *options, "--labels", names, "--activation", "softmax")
    assert "of logit" not in text


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1000000", 1_000_000),
        ("2GiB", 2 << 30),
        ("2gib", 2 << 30),
        ("1.5 GiB", 3 << 29),
        ("500MB", 500_000_000),
        ("64k", 64_000),
        ("64Ki", 64 << 10),
        ("1TiB", 1 << 40),
        ("7b", 7),
    ],
)
def test_bytes_in_words(text, count):
    assert parse_bytes("--max-memory", text) == count


@pytest.mark.parametrize("text", ["", "GiB", "0", "0.2", "-1", "1e9", "2 GiBs", "2EiB", "nan", "9" * 30, "١"])
def test_what_is_no_number_of_bytes(text):
    with pytest.raises(InputError, match="--max-memory must be a number of bytes"):
        parse_bytes("--max-memory", text)


def test_the_bounds_reach_the_engine():
    """What the words mean is what `camrt.load` is given."""
    texts = dict.fromkeys(OPTIONS) | {"max_memory": "1GiB", "load_deadline": "inf", "call_deadline": "2.5"}
    given = parse_model_options(texts)
    assert given == {"max_memory": 1 << 30, "load_deadline": np.inf, "call_deadline": 2.5}
    engine = camrt.load("default", verify=False, **given)
    assert (engine.max_memory, engine.call_deadline) == (1 << 30, 2.5)
