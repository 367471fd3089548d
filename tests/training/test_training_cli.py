"""`camrt train` and `camrt export`: from a folder of images to a file that explains itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from helpers.labelled_images import CLASSES, coloured_squares, wsol_benchmark

pytest.importorskip("torch")
pytest.importorskip("lightning")
pytest.importorskip("onnxscript")

import camrt
from camrt.cli.main import app
from camrt.training.recipe import Recipe

QUICK = (
    *("--backbone", "tiny", "--size", "32", "--epochs", "4", "--batch-size", "8"),
    *("--set", "workers=0", "--accelerator", "cpu"),
)


def camrt_says(*arguments: object, code: int = 0) -> str:
    """What the command prints, in one line."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert found.exit_code == code, found.output
    return " ".join(found.output.split())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coloured_squares(tmp_path_factory.mktemp("data") / "squares", each=14)


def test_from_a_folder_of_images_to_overlays(data: Path, tmp_path: Path) -> None:
    said = camrt_says("train", "--data", data, "--out", tmp_path / "run", "--head", "calm-ml", *QUICK)
    assert "39 images of 3 classes to train on, 3 to validate on" in said
    assert re.search(r"validation loss \d\.\d+, top-1 \d+\.\d %; weights in", said)
    epochs = re.findall(
        r"epoch (\d) of 4: training loss \d\.\d+, top-1 \d+\.\d %; validation loss \d\.\d+, top-1 \d+\.\d %; "
        r"\d+ \w+, \d+ \w+ left",
        said,
    )
    assert epochs == ["1", "2", "3", "4"]
    said = camrt_says(
        "export", tmp_path / "run", "-o", tmp_path / "model.onnx", "--images", data, "--dynamic-size"
    )
    assert "calm on tiny, 3 classes; the same as torch on 42 images" in said
    said = camrt_says(
        "explain", tmp_path / "model.onnx", data / "red" / "00.png", "-m", "calm", "-o", tmp_path / "maps"
    )
    assert "probability" in said
    assert len(list((tmp_path / "maps").glob("*.png"))) == 1
    engine = camrt.load(tmp_path / "model.onnx")
    assert engine.labels == CLASSES
    found = engine.explain([data / "red" / "00.png"], "calm", kind="joint", targets=2)
    assert np.abs(found.raw.sum() - found.probabilities[0, 2]) < 1e-5
    camrt_says("export", tmp_path / "run", "-o", tmp_path / "fixed.onnx")
    assert camrt.load(tmp_path / "fixed.onnx").interface.fixed_size


def test_settings_from_a_file_and_from_the_command(data: Path, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("head: cam\nbackbone: tiny\nsize: 32\nepochs: 9\nworkers: 0\nbatch_size: 8\nseed: 5\n")
    camrt_says(
        *(
            "train",
            "--data",
            data,
            "--out",
            tmp_path / "run",
            "--config",
            config,
            "--epochs",
            "1",
            "--accelerator",
            "cpu",
        ),
        *("--set", "weight_decay=5e-4"),
    )
    written = Recipe.read(tmp_path / "run" / "recipe.yaml", {})
    assert (written.head, written.epochs, written.seed, written.weight_decay) == ("cam", 1, 5, 5e-4)


def test_going_on(data: Path, tmp_path: Path) -> None:
    arguments = ("train", "--data", data, "--out", tmp_path / "run", "--head", "cam", *QUICK)
    camrt_says(*arguments)
    assert "holds a run already" in camrt_says(*arguments, code=2)
    said = camrt_says(
        "train",
        "--data",
        data,
        "--out",
        tmp_path / "run",
        "--resume",
        "--epochs",
        "5",
        "--accelerator",
        "cpu",
    )
    assert "cam on tiny, 5 epochs" in said


def test_a_search_for_a_learning_rate(tmp_path: Path) -> None:
    """Its folder is one that can be exported, and goes on with more draws."""
    data = coloured_squares(tmp_path / "squares", each=4, boxed=True)
    line = (*("train", "--data", data, "--out", tmp_path / "run", "--head", "cam", *QUICK), "--epochs", "1")
    said = camrt_says(*line, "--search", 1)
    assert "1 learning rates between 5e-05 and 0.5; the best by maxboxaccv2 is kept" in said
    assert re.search(r"draw 1 of 1, lr [\d.e-]+: maxboxaccv2 \d+\.\d, val_top1 \d+\.\d %, val_loss", said)
    said = camrt_says(*line, "--search", 2, "--resume")
    assert "draw 1 of 2" not in said
    assert re.search(r"draw 2 of 2, lr .* was the best: weights in", said)
    assert "holds results already" in camrt_says(*line, "--search", 2, code=2)
    said = camrt_says("train", "--data", data, "--out", tmp_path / "run", "--resume", code=2)
    assert "holds another kind of run (search)" in said
    said = camrt_says("export", tmp_path / "run", "-o", tmp_path / "model.onnx")
    assert "cam on tiny, 3 classes" in said


def test_a_search_on_the_wsol_benchmarks_boxes(tmp_path: Path) -> None:
    lists, images = wsol_benchmark(tmp_path)
    line = ("train", "--data", images, "--lists", lists, "--head", "cam", *QUICK, "--epochs", 1)
    line = (*line, "--batch-size", 2, "--recipe", "wsol-cub", "--search", 1)
    said = camrt_says(*line, "--out", tmp_path / "none", code=2)
    assert "none of 3 validation images has boxes or masks in" in said
    assert not (tmp_path / "none").exists()
    rows = [f"{name}/02.png,3,4,18,19" for name in CLASSES]
    (lists / "val" / "localization.txt").write_text("\n".join(rows) + "\n")
    assert "maxboxaccv2" in camrt_says(*line, "--out", tmp_path / "run")
    assert "val_loss" in camrt_says(*line, "--out", tmp_path / "loss", "--search-by", "val_loss")


def test_the_wsol_benchmarks_lists(tmp_path: Path) -> None:
    lists, images = wsol_benchmark(tmp_path)
    said = camrt_says(
        *("train", "--data", images, "--lists", lists, "--out", tmp_path / "run", "--head", "cam"),
        *(*QUICK, "--epochs", 1, "--batch-size", 2),
    )
    assert "6 images of 3 classes to train on, 3 to validate on" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--backbone", "nonesuch"), "'nonesuch' is not known"),
        (("--head", "grad"), "must be one of 'cam', 'calm-ml', 'calm-em'"),
        (("--set", "lr"), "must be KEY=VALUE"),
        (("--set", "lr: [=1"), "unknown setting"),
        (("--set", "lr=[1"), "while parsing"),
        (("--recipe", "cake"), "recipe 'cake' is not known"),
        (("--resume",), "holds no run to go on with"),
        (("--config", "missing.yaml"), "cannot be read as YAML"),
        (("--search", "2"), "say where they are (annotations), or choose by val_top1 or val_loss"),
        (("--search", "2", "--lr", "1", "--devices", "2"), "leave out --lr, --devices: --search draws its"),
        (("--search", "2", "--search-by", "luck"), "by='luck' must be one of maxboxaccv2, pxap"),
        (("--search", "2", "--search-by", "val_loss", "--resume"), "holds no search to go on with"),
        (("--search", "2", "--lr-range", "1"), "--lr-range '1' must be two numbers, as in 5e-5,5e-1"),
        (("--search", "2", "--lr-range", "2,1"), "the smaller first: not 2.0 and 1.0"),
        (("--search-by", "val_loss"), "--search-by means nothing without --search"),
        (("--annotations", "x.csv", "--lr-range", "1,2"), "--lr-range, --annotations mean nothing without"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    data: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    said = camrt_says(
        "train", "--data", data, "--out", tmp_path / "run", *arguments, "--accelerator", "cpu", code=2
    )
    assert said.startswith("error: ") or "error: " in said
    assert words in said


def test_data_and_runs_that_are_not_there(tmp_path: Path) -> None:
    assert "is no folder" in camrt_says("train", "--data", tmp_path / "no", "--out", tmp_path / "run", code=2)
    assert "is no run" in camrt_says("export", tmp_path / "no", "-o", tmp_path / "x.onnx", code=2)


def test_without_lightning_the_way_to_install_it_is_said(data: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['lightning'] = None\n"
        "from camrt.cli.main import app\n"
        f"app(['train', '--data', {str(data)!r}, '--out', {str(tmp_path / 'run')!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "pip install 'camrt[train]'" in done.stderr


def test_help_imports_nothing_heavy() -> None:
    heavy = ("numpy", "torch", "lightning", "onnx", "onnxruntime", "PIL", "yaml")
    code = f"import sys, camrt.cli.main; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
