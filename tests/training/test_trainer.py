"""Training runs: they learn, they go on where they were cut off, and they say what is wrong."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.labelled_images import CLASSES, coloured_squares

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from lightning.pytorch.callbacks import Callback  # noqa: E402

from camrt.errors import ImageError, TrainingError  # noqa: E402
from camrt.training import runs, trainer  # noqa: E402
from camrt.training.checkpoint_io import SafetensorsCheckpointIO  # noqa: E402
from camrt.training.recipe import Recipe  # noqa: E402
from camrt.training.splits import Split, split_folder  # noqa: E402
from camrt.training.state_files import pack_value, unpack_value  # noqa: E402
from camrt.training.tensor_files import read_tensors, write_tensors  # noqa: E402
from camrt.training.trainer import TrainingRun, fit  # noqa: E402

SMALL = {"backbone": "tiny", "size": 32, "canvas": 40, "epochs": 3, "batch_size": 8, "workers": 0, "lr": 0.02}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Split, Split]:
    return split_folder(coloured_squares(tmp_path_factory.mktemp("data") / "squares", each=14), 0.2, 0)


def recipe(**changes: Any) -> Recipe:
    return Recipe.from_settings({**SMALL, **changes})


def run(data: tuple[Split, Split], folder: Path, settings: Recipe, **options: Any) -> runs.RunDescription:
    return fit(settings, *data, folder, accelerator="cpu", progress=False, **options)


class CutOffError(Exception):
    pass


class CutAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == self.step:
            raise CutOffError


def state(folder: Path) -> dict[str, Any]:
    return SafetensorsCheckpointIO().load_checkpoint(folder / runs.STATE)


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("head", ["cam", "calm-ml", "calm-em"])
def test_every_head_learns(data: tuple[Split, Split], tmp_path: Path, head: str) -> None:
    settings = recipe(head=head, epochs=6)
    found = run(data, tmp_path / "run", settings)
    assert found.labels == CLASSES
    assert found.head == ("cam" if head == "cam" else "calm")
    assert found.provenance["val_top1"] == 1.0
    with (tmp_path / "run" / "logs" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["train_loss"]) for row in rows if row["train_loss"]]
    assert len(losses) == 6
    assert losses[-1] < 0.7 * losses[0]
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "recipe.yaml", "data.json", "model.safetensors", "model.json", "last.safetensors", "logs",
        "run.json", "written.jsonl",
    }  # fmt: skip
    classifier, described = runs.load_run(tmp_path / "run")
    assert described == found
    assert not classifier.training
    assert Recipe.read(tmp_path / "run" / "recipe.yaml", {}) == settings


@pytest.mark.parametrize(("every", "teacher"), [(0, 0.0), (1, 0.0), (2, 0.9)])
def test_a_run_cut_off_at_any_step_ends_as_if_it_had_not_been(
    data: tuple[Split, Split], tmp_path: Path, every: int, teacher: float
) -> None:
    """Weights, momentum and teacher are the same to the last bit; so is the best epoch's file."""
    settings = recipe(head="calm-em", teacher_decay=teacher, checkpoint_steps=every)
    run(data, tmp_path / "whole", settings)
    expected = state(tmp_path / "whole")
    assert expected["global_step"] == 12
    for step in (1, 4, 5, 7, 12):
        folder = tmp_path / f"cut{step}"
        with pytest.raises(CutOffError):
            run(data, folder, settings, callbacks=(CutAt(step),))
        run(data, folder, settings, resume=True)
        found = state(folder)
        assert same(found["state_dict"], expected["state_dict"]), step
        for mine, theirs in zip(found["optimizer_states"], expected["optimizer_states"], strict=True):
            for index, entry in theirs["state"].items():
                assert same(mine["state"][index], entry)
        assert same(
            read_tensors(folder / runs.WEIGHTS)[0], read_tensors(tmp_path / "whole" / runs.WEIGHTS)[0]
        )
        assert runs.read_description(folder) == runs.read_description(tmp_path / "whole")


class CutInValidation(Callback):
    def on_validation_start(self, trainer: Any, *rest: Any) -> None:
        if trainer.current_epoch == 1:
            raise CutOffError


def test_a_run_cut_off_before_an_epoch_is_judged(data: tuple[Split, Split], tmp_path: Path) -> None:
    """It goes on from where that epoch is judged still: its weights may be the best."""
    settings = recipe(checkpoint_steps=1, lr=0.001)
    whole = run(data, tmp_path / "whole", settings)
    with pytest.raises(CutOffError):
        run(data, tmp_path / "cut", settings, callbacks=(CutInValidation(),))
    steps = len(data[0]) // settings.batch_size
    assert state(tmp_path / "cut")["global_step"] == 2 * steps - 1
    assert run(data, tmp_path / "cut", settings, resume=True) == whole


def test_a_process_that_is_killed(data: tuple[Split, Split], tmp_path: Path) -> None:
    given = {**SMALL, "checkpoint_steps": 3, "head": "calm-ml"}
    code = (
        "import sys; sys.path[:0] = sys.argv[3:]\n"
        "from helpers.peer_libraries import mend_torchvision; mend_torchvision()\n"
        "from pathlib import Path\n"
        "import torch\n"
        "from lightning.pytorch.callbacks import Callback\n"
        "from camrt.training.trainer import fit\n"
        "from camrt.training.recipe import Recipe\n"
        "from camrt.training.splits import split_folder\n"
        "class Hold(Callback):\n"
        "    def on_train_batch_end(self, trainer, *rest):\n"
        "        if trainer.global_step == 8:\n"
        "            print('held', flush=True)\n"
        "            sys.stdin.read()\n"
        "torch.set_num_threads(1)\n"
        "folder, data = Path(sys.argv[1]), Path(sys.argv[2])\n"
        f"settings, options = Recipe.from_settings({given!r}), dict(accelerator='cpu', progress=False)\n"
        "fit(settings, *split_folder(data, 0.2, 0), folder, callbacks=(Hold(),), **options)\n"
    )
    place = data[0].files[0].parent.parent
    tests = str(Path(__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "killed"), str(place), tests],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert any(line == "held\n" for line in process.stdout)
    finally:
        process.kill()
        process.communicate()
    assert 0 < state(tmp_path / "killed")["global_step"] <= 8
    settings = Recipe.from_settings(given)
    run(data, tmp_path / "killed", settings, resume=True)
    run(data, tmp_path / "whole", settings)
    assert same(state(tmp_path / "killed")["state_dict"], state(tmp_path / "whole")["state_dict"])


def test_em_and_ml_take_the_same_steps(data: tuple[Split, Split], tmp_path: Path) -> None:
    """Their gradients are equal, so that one epoch differs by rounding alone."""
    weights = []
    for head in ("calm-ml", "calm-em"):
        run(data, tmp_path / head, recipe(head=head, epochs=1, lr=0.005))
        weights.append(state(tmp_path / head)["state_dict"])
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=2e-5, rtol=2e-4)


def test_two_processes_train_together(data: tuple[Split, Split], tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    settings = {**SMALL, "epochs": 6, "batch_size": 4, "head": "calm-em", "teacher_decay": 0.9}
    tests, place = str(Path(__file__).parent.parent), str(data[0].files[0].parent.parent)
    script.write_text(
        f"import sys; sys.path.insert(0, {tests!r})\n"
        "from helpers.peer_libraries import mend_torchvision; mend_torchvision()\n"
        "from pathlib import Path\n"
        "import torch\n"
        "from camrt.training.trainer import fit\n"
        "from camrt.training.recipe import Recipe\n"
        "from camrt.training.splits import split_folder\n"
        "torch.set_num_threads(1)\n"
        f"settings = Recipe.from_settings({settings!r})\n"
        f"data = split_folder(Path({place!r}), 0.2, 0)\n"
        "options = dict(accelerator='cpu', devices=2, strategy='ddp', progress=False)\n"
        f"fit(settings, *data, Path({str(tmp_path / 'run')!r}), **options)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = runs.read_description(tmp_path / "run").provenance
    assert found["val_top1"] > 0.8
    assert state(tmp_path / "run")["global_step"] == 6 * (33 // 8)


def test_mixed_precision(data: tuple[Split, Split], tmp_path: Path) -> None:
    found = run(data, tmp_path / "run", recipe(head="calm-em", precision="bf16-mixed", epochs=4))
    assert found.provenance["val_top1"] > 0.9
    assert state(tmp_path / "run")["state_dict"]["classifier.head.classes.weight"].dtype == torch.float32


def test_a_slow_teacher_follows(data: tuple[Split, Split], tmp_path: Path) -> None:
    run(data, tmp_path / "run", recipe(head="calm-em", teacher_decay=0.5, epochs=2))
    found = state(tmp_path / "run")["state_dict"]
    student = found["classifier.head.classes.weight"]
    teacher = found["teacher.module.head.classes.weight"]
    assert not torch.equal(student, teacher)
    assert float((student - teacher).abs().max()) < 0.1


def test_early_stopping_ends_the_run(data: tuple[Split, Split], tmp_path: Path) -> None:
    run(data, tmp_path / "run", recipe(epochs=30, patience=1, lr=1e-9, schedule="constant", warmup=0))
    assert state(tmp_path / "run")["epoch"] < 29


def test_more_epochs_may_be_added(data: tuple[Split, Split], tmp_path: Path) -> None:
    settings = recipe(schedule="constant", epochs=2)
    run(data, tmp_path / "run", settings)
    run(data, tmp_path / "run", recipe(schedule="constant", epochs=4), resume=True)
    run(data, tmp_path / "whole", recipe(schedule="constant", epochs=4))
    assert same(state(tmp_path / "run")["state_dict"], state(tmp_path / "whole")["state_dict"])


def test_a_loss_that_is_not_finite_ends_the_run(data: tuple[Split, Split], tmp_path: Path) -> None:
    settings = recipe(lr=1e30, warmup=0)
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) in step \d of epoch 1 .* smaller lr"):
        run(data, tmp_path / "run", settings)


def test_a_broken_image_ends_the_run_by_name(data: tuple[Split, Split], tmp_path: Path) -> None:
    folder = coloured_squares(tmp_path / "data", each=6)
    (folder / "green" / "03.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    for workers in (0, 1):
        with pytest.raises(ImageError, match=r"green/03\.png: "):
            run(
                split_folder(folder, 0.2, 1),
                tmp_path / f"run{workers}",
                recipe(workers=workers, batch_size=4),
            )


def test_runs_that_cannot_begin_or_go_on(data: tuple[Split, Split], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(TrainingError, match="holds no run to go on with"):
        run(data, folder, recipe(), resume=True)
    run(data, folder, recipe(epochs=1))
    with pytest.raises(TrainingError, match="holds a run already"):
        run(data, folder, recipe(epochs=1))
    with pytest.raises(TrainingError, match=r"other settings: lr \(0.02, now 0.5\)"):
        run(data, folder, recipe(lr=0.5), resume=True)
    other = tuple(Split(part.files, part.classes, ("blue", "green", "rouge")) for part in data)
    with pytest.raises(TrainingError, match=r"other classes: missing 'red'; not expected 'rouge'"):
        run(other, folder, recipe(), resume=True)
    fewer = (data[0].subset(range(len(data[0]) - 1)), data[1])
    with pytest.raises(TrainingError, match="begun with other images: 33 and 9 then, 32 and 9 now"):
        run(fewer, folder, recipe(), resume=True)
    changed = data[0].files[0]
    whole = changed.read_bytes()
    changed.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with pytest.raises(TrainingError, match=r"begun with other images: .* with other contents"):
            run(data, folder, recipe(), resume=True)
    finally:
        changed.write_bytes(whole)
    with pytest.raises(TrainingError, match="to validate on are of other classes"):
        run((data[0], other[1]), tmp_path / "new", recipe())
    with pytest.raises(TrainingError, match="Lightning cannot train so"):
        fit(recipe(), *data, tmp_path / "gpu", accelerator="nonesuch", progress=False)
    with pytest.raises(TrainingError, match="Lightning cannot train so"):
        run(data, tmp_path / "half", recipe(precision="12-odd"))
    (folder / runs.STATE).write_bytes(b"\x00" * 20)
    with pytest.raises(TrainingError, match="cannot be read as safetensors"):
        run(data, folder, recipe(), resume=True)
    (folder / "notes.txt").write_text("mine")
    run(data, folder, recipe(lr=0.05, epochs=1), overwrite=True)
    assert Recipe.read(folder / runs.RECIPE, {}).lr == 0.05
    assert (folder / "notes.txt").read_text() == "mine"


def test_runs_whose_files_are_damaged(data: tuple[Split, Split], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(TrainingError, match="is no run, or one that has not finished"):
        runs.load_run(folder)
    run(data, folder, recipe(epochs=1))
    good = json.loads((folder / runs.DESCRIPTION).read_text())
    for change, words in (
        ({"labels": ["one"]}, "does not fit"),
        ({"format": 99}, "has format 99"),
        ({"preprocessing": {"size": "big"}}, "cannot be read"),
    ):
        (folder / runs.DESCRIPTION).write_text(json.dumps({**good, **change}))
        with pytest.raises(TrainingError, match=words):
            runs.load_run(folder)
    (folder / runs.DESCRIPTION).write_text("{")
    with pytest.raises(TrainingError, match="cannot be read"):
        runs.load_run(folder)


def test_learning_rates_of_the_groups() -> None:
    classifier = runs.build_from_recipe(recipe(), 3)
    settings = recipe(lr=0.1, new_layer_factor=10, warmup=0)
    found = TrainingRun(classifier, settings, 5).configure_optimizers()
    assert [group["initial_lr"] for group in found["optimizer"].param_groups] == [0.1, 1.0]


def test_the_same_seed_gives_the_same_classifier() -> None:
    first, second = (runs.build_from_recipe(recipe(seed=3), 3).state_dict() for _ in range(2))
    assert same(first, second)
    assert not same(first, runs.build_from_recipe(recipe(seed=4), 3).state_dict())


def test_checkpoints_hold_plain_data_and_nothing_else(tmp_path: Path) -> None:
    content = {
        "a": torch.arange(4.0),
        "b": [1, 2.5, None, True, "x", float("inf")],
        3: (torch.tensor(True), {"p": Path("x/y")}),
        "empty": {},
        "nested": {"a": torch.zeros(0)},
    }
    SafetensorsCheckpointIO().save_checkpoint(content, tmp_path / "state")
    found = SafetensorsCheckpointIO().load_checkpoint(tmp_path / "state")
    assert found["b"] == content["b"]
    assert found[3][1] == {"p": Path("x/y")}
    assert isinstance(found[3], tuple)
    assert torch.equal(found["a"], content["a"])
    assert found[3][0].dtype == torch.bool
    tensors: dict[str, torch.Tensor] = {}
    assert unpack_value(pack_value([], tensors, ""), tensors) == []
    with pytest.raises(TrainingError, match=r"callback: object <object .* has no place in a checkpoint"):
        SafetensorsCheckpointIO().save_checkpoint({"callback": object()}, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    write_tensors(tmp_path / "plain", {"x": torch.ones(2)}, {})
    with pytest.raises(TrainingError, match="is no checkpoint"):
        SafetensorsCheckpointIO().load_checkpoint(tmp_path / "plain")
    SafetensorsCheckpointIO().remove_checkpoint(tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_a_file_that_was_there_survives_a_failed_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tensors(tmp_path / "x", {"x": torch.ones(2)}, {})

    def fails(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(OSError, match="disk full"):
        write_tensors(tmp_path / "x", {"x": torch.zeros(2)}, {})
    assert np.array_equal(read_tensors(tmp_path / "x")[0]["x"], [1, 1])
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_tensorboard_that_is_missing(
    data: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("tensorboard")

    monkeypatch.setattr("lightning.pytorch.loggers.TensorBoardLogger", missing)
    with pytest.raises(TrainingError, match="pip install tensorboard"):
        trainer.tensorboard_logger(tmp_path)
