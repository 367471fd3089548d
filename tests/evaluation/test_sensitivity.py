"""Max-sensitivity: its definition on maps made one by one, what is undefined, captum's, an evaluation's."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import camrt
from camrt.cli.main import app
from camrt.errors import InputError
from camrt.evaluation.datasets import read_dataset
from camrt.evaluation.metrics import max_sensitivity
from camrt.evaluation.suite import Settings, evaluate
from camrt.evaluation.suite.prepared_sample import prepare_sample
from helpers.annotated_images import COLOURS, PREPROCESSING, SIDE, boxed_squares, colour_model
from helpers.peer_libraries import import_peer

METHODS = ["gradcam", "eigen"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = colour_model(tmp_path_factory.mktemp("model") / "colours.onnx", hidden=True)
    return camrt.load(path, preprocessing=PREPROCESSING, labels=COLOURS, batch_size=4)


def images(count: int = 3) -> Any:
    return np.random.default_rng(3).standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)


def one_by_one(engine: Any, image: Any, name: str, seed: tuple[int, ...], radius: float, draws: int) -> float:
    """The definition, float64, from an image (1, C, H, W)."""
    own = engine.explain(image, name)
    before = own.maps[0].astype(np.float64)
    changes = []
    for draw in range(draws):
        noise = np.random.default_rng((*seed, draw)).uniform(-radius, radius, image.shape[1:])
        after = engine.explain((image + noise).astype(np.float32), name, targets=own.targets).maps[0]
        changes.append(np.sqrt(((after - before) ** 2).sum()) / np.sqrt((before**2).sum()))
    return float(max(changes))


def test_the_largest_change_of_each_map(engine: Any) -> None:
    found = max_sensitivity(engine, images(), METHODS, radius=0.3, draws=4, seed=7)
    for m, name in enumerate(METHODS):
        for n, image in enumerate(images()):
            expected = one_by_one(engine, image[None], name, (7,), 0.3, 4)
            assert found.values[m, n] == pytest.approx(expected, rel=1e-4)
    assert found.passes == 3 * (1 + 4)  # both methods explain the same copies
    alone = max_sensitivity(engine, images(1), METHODS[:1], radius=0.3, draws=4, seed=7)
    assert alone.values[0, 0] == pytest.approx(found.values[0, 0], rel=1e-4)  # whatever it stands beside


def test_a_map_of_zeros_is_undefined(engine: Any) -> None:
    """A black image in front of this model leaves nothing positive behind its first layer."""
    black = np.full((1, 3, SIDE, SIDE), -2, np.float32)
    assert (engine.explain(black, "gradcam").maps == 0).all()
    found = max_sensitivity(engine, np.concatenate([black, images(1)]), ["gradcam"], draws=2)
    assert np.isnan(found.values).tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": 0}, "draws=0 must be a whole number >= 1"),
        ({"radius": 0}, "radius=0 must be a positive number"),
        ({"radius": np.inf}, "radius=inf must be a positive number"),
        ({"radius": "wide"}, "radius='wide' must be a positive number"),
        ({"seed": -1}, "seed=-1"),
        ({"targets": [[0, 1], [1, 2], [0, 2]]}, "one an image"),
    ],
)
def test_bad_arguments(engine: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        max_sensitivity(engine, images(), METHODS, **change)


def test_an_evaluation_has_it_where_it_is_named(engine: Any, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    folder = boxed_squares(tmp_path / "squares", 3)
    data = read_dataset(folder, labels=engine.labels, num_classes=3)
    asked = Settings(sensitivity_draws=3, sensitivity_radius=0.2, seed=5)
    found = evaluate(
        engine, data, METHODS, ["sensitivity", "coherency"], settings=asked, out=tmp_path / "out"
    )
    assert found.results["further_explanations"] == 4
    for name in ("table.md", "report.html"):
        assert "each method explained each image 4 times more" in (tmp_path / "out" / name).read_text()
    assert found.results["passes"] == 3 * (1 + 3 + 2) + 1
    items = [prepare_sample(sample, PREPROCESSING, masks=False) for sample in data.samples]
    for name in METHODS:
        values = [
            one_by_one(engine, item.pixels[None], name, (5, zlib.crc32(item.name.encode())), 0.2, 3)
            for item in items
        ]
        assert found.figures[name]["sensitivity"]["value"] == pytest.approx(np.mean(values), rel=1e-4)
    again = evaluate(
        engine, data, METHODS, ["sensitivity", "coherency"], settings=asked, out=tmp_path / "out", resume=True
    )
    assert again.figures == found.figures
    everything = evaluate(
        engine, data, ["gradcam"], settings=Settings(step=500, infidelity_squares=2, limit=1)
    )
    assert "name it to have it measured" in everything.results["left_out"]["sensitivity"]
    assert "coherency" in everything.figures["gradcam"]


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ("sensitivity", "explains each image 2 times more"),
        ("adcc,sensitivity", "explains each image 3 times more"),
        ("coherency", "explains each image 1 time more"),
        ("drop", None),
    ],
)
def test_the_command_line_says_what_will_be_explained(
    engine: Any, tmp_path: Path, metrics: str, said: str | None
) -> None:
    pytest.importorskip("pyarrow")
    steps = tmp_path / "steps.json"
    steps.write_text(PREPROCESSING.to_json())
    folder = boxed_squares(tmp_path / "squares", 1)
    run = CliRunner().invoke(
        app,
        [
            *("evaluate", str(engine.path), str(folder), "--methods", "gradcam", "--metrics", metrics),
            *("--sensitivity-draws", "2", "--preprocessing", str(steps), "-o", str(tmp_path / "out")),
        ],
    )
    assert run.exit_code == 0, run.output
    assert (said or "1 of 1 images measured") in run.output
    assert ("explains each image" in run.output) == (said is not None)
    wrong = CliRunner().invoke(
        app,
        [
            "evaluate",
            str(engine.path),
            str(folder),
            "--sensitivity-radius",
            "-1",
            "--preprocessing",
            str(steps),
        ],
    )
    assert wrong.exit_code == 2
    assert "--sensitivity-radius -1.0 must be a positive number" in wrong.output


@pytest.mark.peers
def test_the_same_as_captum(engine: Any) -> None:
    import_peer("captum")
    import torch
    from captum.metrics import sensitivity_max

    given = images(2)
    drawn = []
    for draw in range(3):
        noise = np.random.default_rng((0, draw)).uniform(-0.25, 0.25, given.shape[1:])
        drawn.append((given + noise).astype(np.float32))
    targets = engine.explain(given, "gradcam").targets

    def explain(batch: Any, target: Any) -> Any:
        (rows,) = batch if isinstance(batch, tuple) else (batch,)
        return (torch.from_numpy(engine.explain(rows.numpy(), "gradcam", targets=target.numpy()).maps),)

    def perturb(batch: Any, perturb_radius: float) -> Any:
        return torch.from_numpy(np.stack(drawn, axis=1).reshape(-1, *given.shape[1:]))

    expected = sensitivity_max(
        explain, torch.from_numpy(given), perturb, 0.25, n_perturb_samples=3, target=torch.from_numpy(targets)
    )
    found = max_sensitivity(engine, given, ["gradcam"], radius=0.25, draws=3)
    assert found.values[0] == pytest.approx(expected.numpy(), rel=1e-4)
