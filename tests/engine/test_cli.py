from __future__ import annotations

import csv
import inspect
import io
import json
import os
import re
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version as installed_version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table
from typer.testing import CliRunner, Result

import camrt
from camrt.cli import doctor
from camrt.cli.list_methods import wrap_docstring
from camrt.cli.main import app
from camrt.cli.output import add_row, report_errors
from camrt.engine.caller_warnings import warn_caller
from camrt.engine.explanation import Explanation
from camrt.engine.images.preprocess import Preprocessing
from camrt.engine.passes import PassCounts
from camrt.engine.run_folder import JOURNAL_FILE, RUN_FILE
from camrt.errors import DegenerateMapWarning, MethodError, ModelFileError

LABELS = ("tench", "tabby, tabby cat", "crane", "crane")


@dataclass(frozen=True)
class FakeCAM:
    """Maps of nothing.

    More about them.
    """

    box: int = 1
    definition: str = "paper"
    boxes: tuple[int, ...] = field(default_factory=lambda: (1, 3))


@dataclass(frozen=True)
class FakeTarget:
    name: str = "a_very/long.name[of]/a/tensor/" + "x" * 90
    node: str = "/features/conv"
    operator: str = "Conv"
    shape: tuple[int, ...] = (64, 7, 5)
    clean: bool = True
    chosen: bool = False


class FakeEngine:
    """Brighter images get higher logits for later classes; every call is noted."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.labels: Sequence[str] | None = settings["labels"] or LABELS
        self.preprocessing = Preprocessing.coerce(settings["preprocessing"] or "unit", (7, 5))
        self.num_classes = len(LABELS)
        self.interface = SimpleNamespace(
            recognised="Softmax", activation="softmax", reading="as it is", layout="NCHW"
        )
        self.path, self.sha256 = Path(settings["path"]), "0" * 64
        self.cuts: tuple[Any, ...] = ()
        self.batch_size = settings.get("batch_size", 32)
        self.runtime, self.device = "onnxruntime", "here"
        self.calls: list[dict[str, Any]] = []
        self.flag = 0

    def predict(self, batch: np.ndarray) -> np.ndarray:
        return batch.mean((1, 2, 3))[:, None] * np.arange(4, dtype=np.float32)

    def explain(
        self,
        batch: np.ndarray,
        method: str,
        *,
        targets: Any = None,
        top_k: int | None = None,
        fuse: str = "mean",
        size: str = "image",
        dtype: str | None = None,
        **options: Any,
    ) -> Explanation:
        assert (size, dtype) == ("image", None)
        if "wrong" in options or "nonesuch" in method:
            raise MethodError(f"{method}: no option 'wrong'")
        self.calls.append(
            {"batch": batch, "method": method, "targets": targets, "fuse": fuse, "options": options}
            | ({} if top_k is None else {"top_k": top_k})
        )
        logits = self.predict(batch)
        if top_k is not None:
            targets = np.argsort(-logits, axis=1)[:, :top_k]
        chosen = logits.argmax(1) if targets is None else np.asarray(targets)
        chosen = np.broadcast_to(chosen, (len(batch),)) if chosen.ndim == 0 else chosen
        if self.flag:
            warn_caller("degenerate", DegenerateMapWarning)
        each = PassCounts(trunk=len(batch), head=10 * len(batch))
        scores = np.take_along_axis(logits, chosen.reshape(len(batch), -1), 1).reshape(chosen.shape)
        return Explanation(
            method=f"FakeCAM({method})",
            maps=np.zeros((*chosen.shape, 7, 5), np.float32),
            raw=np.zeros((*chosen.shape, 2, 2), np.float32),
            targets=chosen.astype(np.int64),
            scores=scores,
            logits=logits,
            probabilities=np.exp(logits) / np.exp(logits).sum(1, keepdims=True),
            flags=np.full(chosen.shape, self.flag, np.uint8),
            passes=each,
            seconds=0.01 * len(batch),
            labels=tuple(self.labels) if self.labels else None,
        )

    def explain_all(self, batch: np.ndarray, methods: Sequence[Any], **asked: Any) -> tuple[Explanation, ...]:
        return tuple(self.explain(batch, method.name, **asked) for method in methods)

    def describe(self, costs: bool = True) -> str:
        return "a [bold] model\n  costs" if costs else "a [bold] model"

    def targets(self) -> list[FakeTarget]:
        return [FakeTarget(), FakeTarget(name="last", clean=False, chosen=True)]


class Loader:
    """Stands in for `camrt.engine.load.load`."""

    def __init__(self) -> None:
        self.engines: list[FakeEngine] = []
        self.changes: dict[str, Any] = {}

    def __call__(self, path: Any, **settings: Any) -> FakeEngine:
        if "broken" in str(path):
            raise ModelFileError(f"{path}: not an [ONNX] file")
        engine = FakeEngine(**{"labels": None, "preprocessing": None, "path": path, **settings})
        for name, value in self.changes.items():
            setattr(engine, name, value)
        self.engines.append(engine)
        return engine

    @property
    def calls(self) -> list[dict[str, Any]]:
        return self.engines[-1].calls


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Loader:
    def module(name: str, **members: Any) -> None:
        fake = ModuleType(name)
        vars(fake).update(members)
        monkeypatch.setitem(sys.modules, name, fake)

    loader = Loader()
    scene = image(tmp_path / "bundled" / "scene.png")
    module("camrt.engine.load", load=loader)
    for place in ("camrt.default", "camrt.cli.explain"):
        monkeypatch.setattr(f"{place}.model_path", lambda: tmp_path / "tiny.onnx")
    monkeypatch.setattr("camrt.cli.explain.scene_path", lambda: scene)
    monkeypatch.chdir(tmp_path)
    return loader


def image(path: Path, level: int = 200) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 30), (level,) * 3).save(path)
    return path


def run(*arguments: object, columns: int | None = None) -> Result:
    env = None if columns is None else {"COLUMNS": str(columns), "TERMINAL_WIDTH": str(columns)}
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=env)


def names(folder: Path) -> list[str]:
    """What is in a folder of results, beside the notes of the run."""
    return sorted({path.name for path in folder.iterdir()} - {RUN_FILE, JOURNAL_FILE})


def test_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"camrt {camrt.__version__}\n")


def test_the_command_line_alone_imports_nothing_heavy() -> None:
    code = (
        "import sys, camrt.cli.explain; "
        "print({'numpy', 'PIL', 'onnx', 'onnxruntime', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize(
    "command", [[], ["explain"], ["inspect"], ["methods"], ["evaluate"], ["evaluate", "walls"], ["data"]]
)
def test_help(command: list[str], option: str) -> None:
    result = run(*command, option)
    assert result.exit_code == 0
    assert "Usage" in result.output


@pytest.mark.parametrize("command", [["explain"], ["evaluate"], ["train"], ["evaluate", "walls"], ["export"]])
def test_help_fits_into_80_columns(command: list[str]) -> None:
    lines = run(*command, "--help", columns=80).output.splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if re.search("--[a-z-]*\N{HORIZONTAL ELLIPSIS}", line)]
    assert any("─ Where and how fast ─" in line for line in lines)


def test_help_of_a_group_with_a_default_command_has_its_options() -> None:
    told = run("evaluate", "--help", columns=100).output
    for words in ("--metrics", "Folder of images with their annotations", "walls", "sanity", "| COMMAND"):
        assert words in told
    assert "--data" in run("train", "-h").output
    assert "--search" in run("train", "classifier", "-h").output


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("camrt insp", ["inspect"]),
        ("camrt explain -m gradcam,hires", ["gradcam,hirescam"]),
        ("camrt evaluate walls --methods eigengr", ["eigengradcam"]),
    ],
)
def test_completion(typed: str, offered: list[str]) -> None:
    assert "--install-completion" in run("--help").output
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    shown = subprocess.run(
        [sys.executable, "-m", "camrt"],
        env=os.environ | {"_CAMRT_COMPLETE": "complete_bash", **words},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.stdout.split() == offered, shown.stderr


def test_ctrl_c_while_the_command_line_is_imported_is_quiet() -> None:
    code = """
import sys
class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == "camrt.cli.main":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from camrt.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_doctor() -> None:
    result = run("doctor")
    assert result.exit_code == 0, result.output
    for words in (f"camrt       {camrt.__version__}, Python 3", "CPUExecutionProvider", "threads", "kernels"):
        assert words in result.stdout
    assert "pip install 'camrt[EXTRA]'" in result.stdout


def test_doctor_names_what_an_extra_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [
        "numpy>=1",
        'camrt[inner]; extra == "outer"',
        'no-such-package>=2; extra == "inner"',
        'numpy>=9999; extra == "inner"',
        'elsewhere; sys_platform == "nowhere" and extra == "inner"',
        'pillow; extra == "inner"',
    ]
    monkeypatch.setattr(doctor, "requires", lambda name: asked)
    here = installed_version("numpy")
    assert doctor.missing_packages("outer") == ["no-such-package", f"numpy>=9999 (here is {here})"]
    assert doctor.missing_packages("unknown") == []


def test_doctor_knows_every_extra() -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    if not project.exists():
        pytest.skip("the tests are not beside pyproject.toml")
    extras = tomllib.loads(project.read_text("utf-8"))["project"]["optional-dependencies"]
    assert set(doctor.FEATURES) == set(extras) - {"dev", "docs", "peers"}


def test_without_arguments_the_bundled_scene(loader: Loader, tmp_path: Path) -> None:
    result = run("explain")
    assert result.exit_code == 0, result.output
    assert loader.engines[0].settings["path"] == tmp_path / "tiny.onnx"
    assert names(tmp_path / "camrt-out") == ["results.csv", "scene_comparison.png"]
    assert [(call["method"], call["top_k"]) for call in loader.calls] == [("pixab", 3), ("ablation", 3)]
    picture = Path("camrt-out") / "scene_comparison.png"
    with Image.open(picture) as drawn:
        assert drawn.width > 1000
    first, *_, third = result.stdout.splitlines()[-5:]
    assert first == f"look at {picture}"
    assert third.split()[:2] == ["camrt", "methods"]
    again = run("explain", "--show")  # what is there is the same, and nobody's loss
    assert again.exit_code == 0, again.output
    other = run("explain", "-k", "1")
    assert other.exit_code == 2
    assert "camrt-out holds results already" in other.stderr


@pytest.mark.parametrize(
    ("platform", "display", "launched", "told"),
    [
        ("linux", "", None, "there is no desktop to show it on: open camrt-out/a_1_3-crane.png yourself"),
        ("linux", ":0", 0, ""),
        ("linux", ":0", 1, "there is no desktop to show it on: open camrt-out/a_1_3-crane.png yourself"),
        ("darwin", "", 0, ""),
    ],
)
def test_the_picture_is_shown_on_a_desktop(
    loader: Loader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    platform: str,
    display: str,
    launched: int | None,
    told: str,
) -> None:
    shown: list[str] = []

    def launch(place: str) -> int:
        assert launched is not None
        shown.append(place)
        return launched

    monkeypatch.setattr("camrt.cli.first_steps.typer.launch", launch)
    monkeypatch.setattr("camrt.cli.first_steps.sys", SimpleNamespace(platform=platform))
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    result = run("explain", "m.onnx", image(tmp_path / "a.png"), "--show")
    assert result.exit_code == 0, result.output
    assert result.stderr.strip() == told
    assert shown == (
        [] if launched is None else [str((tmp_path / "camrt-out" / "a_1_3-crane.png").resolve())]
    )
    nothing = run("explain", "m.onnx", tmp_path / "a.png", "--show", "--no-overlays", "--overwrite")
    assert "no picture was written that could be shown" in nothing.stderr


def test_several_methods_are_compared_on_a_sheet(loader: Loader, tmp_path: Path) -> None:
    for name in ("a", "b"):
        image(tmp_path / f"{name}.png")
    result = run(
        "explain", "m.onnx", "a.png", "b.png", "-m", "gradcam:contrast=[0,1],pixab,gradcam", "-k", "2"
    )
    assert result.exit_code == 0, result.output
    assert names(tmp_path / "camrt-out") == ["a_comparison.png", "b_comparison.png", "results.csv"]
    with Path("camrt-out/results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["a.png"] * 6 + ["b.png"] * 6
    assert [row["method"].partition("(")[0] for row in rows[::2]] == ["GradCAM", "PixabCAM", "GradCAM"] * 2
    assert "contrast=(0, 1)" in rows[0]["method"]
    assert {row["overlay"] for row in rows} == {"a_comparison.png", "b_comparison.png"}
    assert "2 images, 30.0 ms an image, passes: 6 trunk, 60 head" in result.stdout
    again = run("explain", "m.onnx", "a.png", "b.png", "-m", "gradcam,pixab", "-k", "2", "--resume")
    assert again.exit_code == 2
    assert "which differs in method" in again.stderr


def test_how_maps_are_drawn(loader: Loader, tmp_path: Path) -> None:
    asked = ["--mode", "mask", "--colormap", "ember", "--threshold", "0.3"]
    result = run("explain", "m.onnx", image(tmp_path / "a.png"), *asked)
    assert result.exit_code == 0, result.output
    identity = json.loads(Path("camrt-out/run.json").read_text())["made of"]
    assert identity["settings"]["style"] == {"colormap": "ember", "mode": "mask", "threshold": 0.3}


@pytest.mark.parametrize("given", ["cat.png", "folder", "*.png", "list.txt"])
def test_images_without_a_model_are_the_embedded_classifier_s(
    loader: Loader, tmp_path: Path, given: str
) -> None:
    for name in ("cat.png", "folder/cat.png"):
        image(tmp_path / name)
    (tmp_path / "list.txt").write_text("cat.png\n")
    result = run("explain", given, "folder/cat.png", "-o", "out")
    assert result.exit_code == 0, result.output
    assert loader.engines[0].settings["path"] == tmp_path / "tiny.onnx"
    assert result.stderr.startswith("no model named: the embedded classifier explains (4 classes: tench, ")
    assert sum(len(call["batch"]) for call in loader.calls) == 2
    quiet = run("explain", given, "-o", "quiet", "--quiet")
    assert (quiet.exit_code, quiet.output) == (0, "")


def test_one_image(loader: Loader, tmp_path: Path) -> None:
    cat = image(tmp_path / "cat.jpg", 255)
    result = run("explain", "m.onnx", cat, "--out", "results")
    assert result.exit_code == 0, result.output
    overlay = Path("results/cat_1_3-crane.png")
    assert result.stdout.splitlines() == [
        f"{cat}: class 3 (crane), probability 0.644, score 3 (the logit is explained), {overlay}",
        "pixab: 1 image, 10.0 ms an image, passes: 1 trunk, 10 head, 0 full",
        "files in results: pictures, explanation.npz, results.csv",
    ]
    assert result.stderr == ""
    with Image.open(overlay) as drawn:
        assert drawn.size == (20, 30)
    assert loader.calls[0]["batch"].shape == (1, 3, 7, 5)
    assert loader.calls[0]["targets"] is None


def test_settings_reach_the_engine(loader: Loader, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb b\n\nd\n\n")
    options = [
        "--layer",
        "relu",
        "--layer",
        "mixed",
        "--fuse",
        "max",
        "--preprocessing",
        "tf",
        "--labels",
        "labels.txt",
        "--batch-size",
        "3",
    ]
    options += ["--threads", "2", "-m", "gradcam", "--device", "cuda:1", "--backend", "tensorrt"]
    options += ["--plans", "built", "--precision", "bf16", "--layout", "NHWC"]
    result = run("explain", "m.onnx", image(tmp_path / "a.png"), *options)
    assert result.exit_code == 0, result.output
    assert loader.engines[0].settings == {
        "path": Path("m.onnx"),
        "target": ["relu", "mixed"],
        "batch_size": 3,
        "threads": 2,
        "device": "cuda:1",
        "backend": "tensorrt",
        "plans": Path("built"),
        "precision": "bf16",
        "layout": "NHWC",
        "labels": ("a", "b b", "", "d"),
        "preprocessing": "tf",
    }
    assert loader.calls[0]["method"] == "gradcam"
    assert loader.calls[0]["fuse"] == "max"
    assert "class 3 (d)" in result.stdout


def test_overlays_on_the_original_images(loader: Loader, tmp_path: Path) -> None:
    given = [image(tmp_path / "a.png"), image(tmp_path / "b.png")]
    for out, options, size in (("seen", ["--on", "view"], (5, 7)), ("whole", [], (20, 30))):
        result = run("explain", "m.onnx", *given, "--out", tmp_path / out, *options)
        assert result.exit_code == 0, result.output
        drawings = sorted((tmp_path / out).glob("*.png"))
        assert len(drawings) == 2
        for path in drawings:
            with Image.open(path) as drawing:
                assert drawing.size == size


def test_method_options_are_json_or_text(loader: Loader, tmp_path: Path) -> None:
    values = ["box=3", "boxes=[1, [2, 3]]", "definition=paper", "share=0.5", "on=true", "text=", "a-b=x=y"]
    options = [part for value in values for part in ("-O", value)]
    assert run("explain", "m.onnx", image(tmp_path / "a.png"), *options).exit_code == 0
    assert loader.calls[0]["options"] == {
        "box": 3,
        "boxes": (1, (2, 3)),
        "definition": "paper",
        "share": 0.5,
        "on": True,
        "text": "",
        "a_b": "x=y",
    }


def test_options_in_a_method_s_name(loader: Loader, tmp_path: Path) -> None:
    given = ["-m", "gradcam:contrast=[3, 5]:smooth=augment", "-O", "strength=0.5"]
    assert run("explain", "m.onnx", image(tmp_path / "a.png"), *given).exit_code == 0
    assert loader.calls[0]["method"] == "gradcam"
    assert loader.calls[0]["options"] == {"contrast": (3, 5), "smooth": "augment", "strength": 0.5}
    twice = run(
        "explain", "m.onnx", image(tmp_path / "a.png"), "-m", "gradcam:score=logit", "-O", "score=logit"
    )
    assert twice.exit_code == 2
    assert "score: given twice" in twice.stderr


def test_size_and_preprocessing(loader: Loader, tmp_path: Path) -> None:
    cat = image(tmp_path / "cat.png")
    (tmp_path / "p.json").write_text('{"colours": "BGR", "size": [3, 3]}')
    for arguments, size, colours in [
        (["--size", "9x4"], (9, 4), "RGB"),
        (["--size", "9X4", "--preprocessing", "imagenet"], (9, 4), "RGB"),
        (["--preprocessing", "p.json"], (3, 3), "BGR"),
        (["--preprocessing", "p.json", "--size", "9x4"], (9, 4), "BGR"),
    ]:
        result = run("explain", "m.onnx", cat, *arguments, "--overwrite")
        assert result.exit_code == 0, result.output
        assert loader.calls[0]["batch"].shape == (1, 3, *size)
        assert loader.engines[-1].preprocessing.colours == colours


def test_targets_by_index_and_name(loader: Loader, tmp_path: Path) -> None:
    files = [image(tmp_path / "a.png"), image(tmp_path / "b.png")]
    assert run("explain", "m.onnx", *files, "-t", "Tabby Cat").exit_code == 0
    assert loader.calls[0]["targets"] == 1
    result = run("explain", "m.onnx", *files, "-t", "tench", "-t", "2", "-o", "two")
    assert result.exit_code == 0, result.output
    assert loader.calls[0]["targets"] == [[0, 2], [0, 2]]
    assert names(tmp_path / "two") == [
        "a_1_0-tench.png",
        "a_2_2-crane.png",
        "a_sheet.png",
        "b_1_0-tench.png",
        "b_2_2-crane.png",
        "b_sheet.png",
        "explanation.npz",
        "results.csv",
    ]
    assert "class 0 (tench)" in result.stdout.splitlines()[0]
    assert str(Path("two/b_2_2-crane.png")) in result.stdout.splitlines()[3]


def test_top_k(loader: Loader, tmp_path: Path) -> None:
    result = run("explain", "m.onnx", image(tmp_path / "a.png"), "--top-k", "3")
    assert result.exit_code == 0, result.output
    assert loader.calls[0]["top_k"] == 3
    printed = result.stdout.splitlines()[:3]
    assert [f"class {c} " in line for c, line in zip((3, 2, 1), printed, strict=True)] == [True] * 3
    assert "passes: 1 trunk, 10 head, 0 full" in result.stdout
    assert run("explain", "m.onnx", tmp_path / "a.png", "-k", "1", "--overwrite").exit_code == 0
    assert loader.calls[0]["targets"] is None
    assert "top_k" not in loader.calls[0]


def test_folders_stream_in_batches(loader: Loader, tmp_path: Path) -> None:
    for name in ("x/1.png", "x/2.png", "y/1.png", "y/deep/1.png", "y/3.png"):
        image(tmp_path / name)
    result = run("explain", "m.onnx", "x", "y", "--batch-size", "2", "--block-size", "2")
    assert result.exit_code == 0, result.output
    assert [len(call["batch"]) for call in loader.calls] == [2, 2, 1]
    assert names(tmp_path / "camrt-out") == sorted(
        [f"{stem}_1_3-crane.png" for stem in ("1", "2", "1-2", "3", "1-3")]
        + ["explanation.npz", "explanation-0002.npz", "explanation-0003.npz", "results.csv"]
    )
    assert "5 images, 10.0 ms an image, passes: 5 trunk, 50 head, 0 full" in result.stdout
    with np.load("camrt-out/explanation-0002.npz", allow_pickle=False) as archive:
        assert archive["stems"].tolist() == ["1-2", "3"]


def test_unreadable_images_are_skipped(loader: Loader, tmp_path: Path) -> None:
    good, bad = image(tmp_path / "a.png"), tmp_path / "b[red].png"
    bad.write_text("no image")
    (tmp_path / "none").mkdir()
    result = run("explain", "m.onnx", "gone.png", bad, "none", good)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "skipped: gone.png: no such file or folder",
        f"skipped: {bad}: not an image that Pillow can read",
        "skipped: none: no image in this folder",
    ]
    assert "1 image, 3 skipped" in result.stdout
    assert len(loader.calls) == 1


def test_a_table_of_results(loader: Loader, tmp_path: Path) -> None:
    image(tmp_path / "a,b.png", 255)
    image(tmp_path / "c.png", 255)
    (tmp_path / "bad.png").write_text("no image")
    result = run(
        "explain", "m.onnx", "a,b.png", "bad.png", "c.png", "-t", "0", "-t", "3", "--batch-size", "1"
    )
    assert result.exit_code == 1
    with Path("camrt-out/results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["status"], row["rank"], row["class"]) for row in rows] == [
        ("a,b.png", "ok", "1", "0"),
        ("a,b.png", "ok", "2", "3"),
        ("bad.png", "failed", "", ""),
        ("c.png", "ok", "1", "0"),
        ("c.png", "ok", "2", "3"),
    ]
    assert rows[1] == {
        "path": "a,b.png",
        "status": "ok",
        "method": "pixab",
        "rank": "2",
        "class": "3",
        "label": "crane",
        "probability": "0.6439143",
        "logit": "3",
        "score": "3",
        "flag": "ok",
        "overlay": "a_b_2_3-crane.png",
        "error": "",
    }
    assert rows[2]["error"] == "bad.png: not an image that Pillow can read"
    assert (tmp_path / "camrt-out" / rows[4]["overlay"]).is_file()


def test_the_table_holds_no_formulas(loader: Loader, tmp_path: Path) -> None:
    loader.changes = {"labels": ("a", "b", "c", '=HYPERLINK("x")')}
    (tmp_path / "=2.png").write_text("no image")
    image(tmp_path / "@1.png", 255)
    assert run("explain", "m.onnx", "@1.png", "=2.png").exit_code == 1
    with Path("camrt-out/results.csv").open(newline="") as file:
        good, bad = csv.DictReader(file)
    assert (good["path"], good["label"]) == ("./@1.png", '\'=HYPERLINK("x")')
    assert (bad["path"], bad["error"][:8]) == ("./=2.png", "'=2.png:")


def test_the_table_of_a_run_that_goes_on_is_whole(loader: Loader, tmp_path: Path) -> None:
    for name in ("x/1.png", "x/3.png"):
        image(tmp_path / name)
    assert run("explain", "m.onnx", "x", "--block-size", "1", "--no-overlays").exit_code == 0
    image(tmp_path / "x" / "2.png")
    done = run("explain", "m.onnx", "x", "--block-size", "1", "--no-overlays", "--resume")
    assert "1 explained before" in done.stdout
    lines = Path("camrt-out/results.csv").read_text().splitlines()[1:]
    assert [line.partition(",")[0] for line in lines] == [str(Path("x") / f"{n}.png") for n in (1, 2, 3)]
    assert not list(Path("camrt-out").glob("*.png"))


def test_somebody_else_s_table_is_left_alone(loader: Loader, tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    Path("camrt-out").mkdir()
    Path("camrt-out/results.csv").write_text("mine")
    result = run("explain", "m.onnx", "a.png")
    assert result.exit_code == 2
    assert "results.csv is there already, and is no result of this run" in " ".join(result.stderr.split())
    assert loader.calls == []
    assert Path("camrt-out/results.csv").read_text() == "mine"


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_pictures_in_other_formats(loader: Loader, tmp_path: Path, form: str) -> None:
    result = run("explain", "m.onnx", image(tmp_path / "a.png"), "-k", "2", "--format", form)
    assert result.exit_code == 0, result.output
    stems = ("a_1_3-crane", "a_2_2-crane", "a_sheet")
    for stem in stems:
        with Image.open(f"camrt-out/{stem}.{form}") as drawn:
            assert drawn.format == form.upper()


def test_of_many_images_the_classes_are_told(loader: Loader, tmp_path: Path) -> None:
    for number in range(25):
        image(tmp_path / "x" / f"{number:02}.png", 255 if number % 5 else 1)
    loader.changes = {"flag": 1}
    result = run("explain", "m.onnx", "x", "--batch-size", "3")
    assert len([line for line in result.stdout.splitlines() if line.startswith("x/")]) == 20
    assert result.stdout.splitlines()[20:22] == [
        "most often: crane (25)",
        "25 maps are empty: the flags say why",
    ]


def test_of_many_failures_the_first_are_told(loader: Loader, tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number:02}.png").write_text("no image")
    result = run("explain", "m.onnx", "*.png", image(tmp_path / "good.jpg"))
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 21
    assert result.stderr.splitlines()[-1] == "skipped: 10 more"
    assert Path("camrt-out/results.csv").read_text().count("not an image that Pillow can read") == 30


def test_warnings_are_paragraphs_and_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(), report_errors():
        warnings.simplefilter("always")
        for text in ("pass device= or\x1b not", "pass device= or\x1b not", "another"):
            warnings.warn(text, DegenerateMapWarning, stacklevel=1)
    told = capsys.readouterr().err.splitlines()
    assert told == ["warning: give --device or\N{REPLACEMENT CHARACTER} not", "warning: another"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "stopped"),
        ({"resumes": True}, "stopped; what was written is whole, the same command with --resume goes on"),
        (
            {"resumes": True, "replaces": True},
            "stopped; what was written is whole, the same command with --resume in place of --overwrite "
            "goes on",
        ),
    ],
)
def test_ctrl_c_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], options: dict[str, bool], told: str
) -> None:
    with pytest.raises(typer.Exit) as end, report_errors(**options):
        raise KeyboardInterrupt
    assert end.value.exit_code == 130
    assert capsys.readouterr().err == told + "\n"


def test_nothing_readable(loader: Loader) -> None:
    result = run("explain", "m.onnx", "gone.png")
    assert (result.exit_code, result.stdout) == (1, "")
    assert not Path("camrt-out").exists()


def test_degenerate_maps_are_told(loader: Loader, tmp_path: Path) -> None:
    loader.changes = {"flag": 2}
    result = run("explain", "m.onnx", image(tmp_path / "a.png"))
    assert result.exit_code == 0, result.output
    assert ", no map: nothing positive, " in result.stdout


def test_without_labels(loader: Loader, tmp_path: Path) -> None:
    loader.changes = {"labels": None}
    result = run("explain", "default", image(tmp_path / "a.png"))
    assert "class 3, probability" in result.stdout
    assert names(tmp_path / "camrt-out") == ["a_1_3.png", "explanation.npz", "results.csv"]


def test_control_characters_do_not_reach_the_terminal(loader: Loader, tmp_path: Path) -> None:
    loader.changes = {"labels": ("\x1b[2J", "a", "b", "\x1b]0;title\x07")}
    result = run("explain", "m.onnx", image(tmp_path / "a.png"))
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert "class 3 (�]0;title�)" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m.onnx"], "give the images to explain after the model: camrt explain m.onnx IMAGES..."),
        (["cat.png", "m.onnx"], "m.onnx is a model: first the model, then the images"),
        (["m.onnx", "cat.png", "N.ONNX"], "N.ONNX is a model: first the model, then the images"),
        (["weights"], "give the images to explain after the model: camrt explain weights IMAGES..."),
        (["broken.onnx", "cat.png"], "broken.onnx: not an [ONNX] file"),
        (["m.onnx", "cat.png", "-t", "1", "-k", "2"], "give --target or --top-k, not both"),
        (["m.onnx", "cat.png", "-k", "5"], "--top-k 5: the model has 4 classes"),
        (["m.onnx", "cat.png", "-t", "4"], "--target 4: classes are 0 to 3"),
        (["m.onnx", "cat.png", "-t", "-1"], "--target -1: classes are 0 to 3"),
        (
            ["m.onnx", "cat.png", "-t", "tensh"],
            "--target tensh: no class of that name; did you mean 'tench'?",
        ),
        (["m.onnx", "cat.png", "-t", "crane"], "--target crane: classes 2, 3 bear that name; give an index"),
        (["m.onnx", "cat.png", "--size", "224"], "--size must be HxW, such as 224x224, got '224'"),
        (["m.onnx", "cat.png", "--size", "0x5"], "each side of size must be in [1, 16384]"),
        (["m.onnx", "cat.png", "-O", "box"], "--option must be KEY=VALUE, got 'box'"),
        (["m.onnx", "cat.png", "-O", "a b=1"], "--option must be KEY=VALUE"),
        (
            ["m.onnx", "cat.png", "-O", "targets=1"],
            "--option targets: not an option of a method; use --target",
        ),
        (["m.onnx", "cat.png", "-O", "a=1", "-O", "a=2"], "--option a: given twice"),
        (["m.onnx", "cat.png", "-m", ","], "--method ',' names none; camrt methods lists them"),
        (["m.onnx", "cat.png", "-m", "cam,pixa"], "unknown method 'pixa'; did you mean 'pixab'?"),
        (["m.onnx", "cat.png", "-m", "cam,pixab", "-O", "score=logit"], "-O is of one method"),
        (["m.onnx", "cat.png", "-m", "cam,pixab", "--write", "arrays"], "arrays and maps are written of one"),
        (["m.onnx", "cat.png", "--mode", "paint"], "mode='paint' must be one of"),
        (["m.onnx", "cat.png", "-O", "wrong=1"], "pixab: no option 'wrong'"),
        (["m.onnx", "cat.png", "--labels", "gone"], "--labels gone: cannot be read: no such file"),
        (["m.onnx", "cat.png", "--labels", "cat.png"], "--labels cat.png: not a text file"),
        (["m.onnx", "cat.png", "--labels", "bad.json"], "--labels bad.json: not valid JSON"),
        (
            ["m.onnx", "cat.png", "--labels", "array.json"],
            "--labels array.json: expected a JSON array of texts",
        ),
        (
            ["m.onnx", "cat.png", "--preprocessing", "vgg"],
            "neither one of imagenet, imagenet-squash, tf, unit",
        ),
        (["m.onnx", "cat.png", "--preprocessing", "bad.json"], "--preprocessing bad.json: not valid JSON"),
        (["m.onnx", "cat.png", "--preprocessing", "array.json"], "array.json: expected a JSON object"),
        (["m.onnx", "cat.png", "--preprocessing", "key.json"], "preprocessing: unknown key 'sise'"),
        (["m.onnx", "cat.png", "--out", "cat.png"], "cat.png"),
        (["m.onnx", "cat.png", "--on", "paper"], "--on paper: draw on the original images, or on the view"),
        (["m.onnx", "cat.png", "--format", "gif"], "pictures are written as png, jpeg, webp, not 'gif'"),
        (["m.onnx", "cat.png", "--write", "overlays", "--no-overlays"], "nothing to write"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors(loader: Loader, tmp_path: Path, arguments: list[str], message: str) -> None:
    image(tmp_path / "cat.png")
    (tmp_path / "bad.json").write_text("[")
    (tmp_path / "array.json").write_text("[1]")
    (tmp_path / "key.json").write_text(json.dumps({"sise": 1}))
    result = run("explain", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert len(result.stderr.splitlines()) == 1


def test_names_without_labels(loader: Loader, tmp_path: Path) -> None:
    loader.changes = {"labels": None}
    result = run("explain", "m.onnx", image(tmp_path / "a.png"), "-t", "cat")
    assert result.exit_code == 2
    assert "the model has no class names; give an index, or --labels FILE" in result.stderr


def test_unknown_preprocessing_names_the_choices(loader: Loader, tmp_path: Path) -> None:
    loader.changes = {"preprocessing": None}
    result = run("explain", "m.onnx", image(tmp_path / "a.png"))
    assert result.exit_code == 2
    assert "--preprocessing imagenet|imagenet-squash|tf|unit|raw, or a JSON file" in result.stderr


@pytest.mark.parametrize("option", [["--top-k", "0"], ["--batch-size", "0"], ["--threads", "x"], ["--nope"]])
def test_usage_errors(loader: Loader, option: list[str]) -> None:
    assert run("explain", "m.onnx", "a.png", *option).exit_code == 2


def test_labels_as_json(loader: Loader, tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text('["a", "b", "c", "d"]')
    assert "(d)" in run("explain", "m.onnx", image(tmp_path / "a.png"), "--labels", "l.json").stdout


def test_inspect(loader: Loader, tmp_path: Path) -> None:
    short = run("inspect", "default")
    assert short.exit_code == 0, short.output
    assert short.stdout.splitlines() == [
        "a [bold] model",
        "  labels  tench, tabby, tabby cat, crane, crane",
        "--all lists all labels, what each method costs, and the tensors for --layer",
    ]
    loader.engines.clear()
    result = run("inspect", "default", "--layer", "last", "--all")
    assert result.exit_code == 0, result.output
    assert "costs" in result.stdout
    assert loader.engines[0].settings["path"] == tmp_path / "tiny.onnx"
    assert loader.engines[0].settings["target"] == "last"
    assert "a [bold] model" in result.stdout
    assert FakeTarget().name in result.stdout
    row = next(line for line in result.stdout.splitlines() if "last" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "last",
        "/features/conv",
        "Conv",
        "64 x 7 x 5",
        "no",
        "yes",
    ]


def test_inspect_of_a_broken_model(loader: Loader) -> None:
    result = run("inspect", "broken.onnx")
    assert (result.exit_code, result.stderr) == (2, "error: broken.onnx: not an [ONNX] file\n")


def test_methods(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("camrt.engine.methods.methods", lambda: {"fake": FakeCAM})
    short = run("methods")
    assert short.exit_code == 0, short.output
    assert "Maps of nothing." in short.stdout
    assert "box=1" not in short.stdout
    result = run("methods", "--all")
    assert result.exit_code == 0, result.output
    for text in ("fake", "Maps of nothing.", "box=1, definition='paper', boxes=(1, 3)"):
        assert text in result.stdout
    assert "More about them" not in result.stdout


def test_docstrings_are_wrapped_anew() -> None:
    text = """A method, whose lines are
    continued.

    * first, which goes
      on
    * second
      v = x · y

    Attributes:
        score: One
            or two."""
    assert list(wrap_docstring(inspect.cleandoc(text), 20)) == [
        "A method, whose",
        "lines are continued.",
        "",
        "* first, which goes",
        "  on",
        "* second",
        "  v = x · y",
        "",
        "Attributes:",
        "    score: One or",
        "        two.",
    ]


def test_a_method_by_its_name() -> None:
    result = run("methods", "Score-CAM")
    assert result.exit_code == 0, result.output
    assert "Score-CAM: channels weighted by the score" in result.stdout
    assert "  definition='paper'" in result.stdout.splitlines()
    wrong = run("methods", "scor")
    assert wrong.exit_code == 2
    assert "did you mean 'score'?" in wrong.stderr


def test_what_is_no_folder_no_image_and_no_preprocessing(loader: Loader, tmp_path: Path) -> None:
    cat = image(tmp_path / "cat.png")
    (tmp_path / "text.onnx").write_text("not a folder")
    taken = run("explain", "m.onnx", cat, "-o", "text.onnx")
    assert taken.exit_code == 2
    assert "text.onnx is a file, and results go into a folder: name another" in taken.stderr
    (tmp_path / "empty.png").touch()
    empty = run("explain", "m.onnx", tmp_path / "empty.png")
    assert "empty.png: empty, it holds not a single byte" in empty.stderr
    (tmp_path / "steps.json").write_text("{}")
    nothing = run("explain", "m.onnx", cat, "--preprocessing", "steps.json", "--size", "8x8")
    assert "it says nothing; its keys are size, mean, std" in nothing.stderr


def test_words_that_are_no_command() -> None:
    result = run("train", "foo")
    assert result.exit_code == 2
    assert "No such command 'foo'" in result.stderr
    result = run("export", "run", "--to", "foo", "-o", "x")
    assert "--to 'foo' must be one of onnx, tensorrt, tensorrt-rtx" in result.stderr


def test_a_precision_that_there_is_not(tmp_path: Path) -> None:
    result = run("explain", "default", image(tmp_path / "a.png"), "--precision", "int4")
    assert result.exit_code == 2
    assert "--precision int4 must be one of 'fp32', 'fp16', 'bf16'" in " ".join(result.stderr.split())


def test_help_is_wrapped_where_the_terminal_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TERMINAL_WIDTH", "300")
    told = " ".join(run("explain", "--help").output.split())
    assert "goes on with --resume; a folder" in told
    assert "A run that was stopped goes on with --resume." in " ".join(run("evaluate", "-h").output.split())


def test_titles_of_tables_are_folded_not_cut() -> None:
    table, text = Table("a title that is long", "another"), io.StringIO()
    add_row(table, "1", "2")
    Console(file=text, width=20).print(table)
    told = "".join(character for character in text.getvalue() if character.isalpha())
    assert "\N{HORIZONTAL ELLIPSIS}" not in text.getvalue()
    assert sorted(told) == sorted("atitlethatislonganother")
