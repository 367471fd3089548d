"""Every command in a terminal: bars of progress, colours and widths are never seen through a pipe."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from camrt.cli.main import app
from camrt.cli.progress import progress_bar
from helpers.annotated_images import PREPROCESSING, boxed_squares, colour_model
from helpers.labelled_images import coloured_squares

pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")

ON_SQUARES = ("model.onnx", "squares", "--preprocessing", "steps.json")


WITH_TORCHVISION = """
import runpy
from helpers import peer_libraries
peer_libraries.mend_torchvision()  # Lightning imports it
runpy.run_module("camrt", run_name="__main__")
"""


@dataclass(frozen=True)
class Command:
    """A command line, what it shows, and what has to be installed for it."""

    arguments: tuple[str, ...]
    shows: tuple[str, ...]
    needs: tuple[str, ...] = ()


REPORT = ("matplotlib", "pyarrow", "skimage", "scipy")
COMMANDS = {
    "explain": Command(
        ("explain", *ON_SQUARES, "-m", "cam"),
        ("explaining", "/3", "┃ image ┃ class", "000.png", "3 images", "files in"),
    ),
    "inspect": Command(("inspect", "model.onnx", "--all"), ("Targets", "pooled")),
    "doctor": Command(("doctor",), ("kernels", "providers", "backbones")),
    "methods": Command(("methods",), ("pixab", "layercam")),
    "train classifier": Command(
        (
            *("train", "--data", "labelled", "--out", "run", "--head", "cam", "--backbone", "tiny"),
            *("--size", "32", "--epochs", "1", "--batch-size", "2", "--set", "workers=0"),
            *("--accelerator", "cpu"),
        ),
        ("images of 3 classes", "epochs", "/1", "epoch 1 of 1: training loss", "epoch 1 was the best"),
        ("torch", "lightning"),
    ),
    "train masked-vgg": Command(
        (
            *("train", "masked-vgg", "--data", "labelled", "--out", "masked", "--epochs", "2"),
            *("--batch-size", "8", "--workers", "0", "--lr", "0.01"),
        ),
        ("the last 18 of 64 rows", "epochs", "epoch 2: loss", "the network in masked/model.onnx"),
        ("torch", "safetensors", "onnxscript"),
    ),
    "export": Command(
        ("export", "run", "-o", "trained.onnx"), ("cam on tiny",), ("torch", "lightning", "onnxscript")
    ),
    "data stack-mix": Command(
        ("data", "stack-mix", "labelled", "--out", "stacks", "--size", "32", "--dead-rows", "8"),
        ("3 images of 32×32 in stacks, one a class", "look through them"),
    ),
    "evaluate images": Command(
        ("evaluate", *ON_SQUARES, "--methods", "cam,pixab", "--step", "200", "--out", "measured"),
        ("measuring images", "/3", "compactness, cells", "3 of 3 images measured", "files in measured"),
        REPORT,
    ),
    "evaluate walls": Command(
        ("evaluate", "walls", *ON_SQUARES, "--methods", "cam", "--dead-rows", "8", "--out", "walls"),
        ("measuring images", "/3", "files in walls"),
        REPORT,
    ),
    "evaluate sanity": Command(
        ("evaluate", "sanity", *ON_SQUARES, "--methods", "cam", "--stages", "1"),
        ("means over 3 images",),
        ("skimage", "scipy"),
    ),
    "evaluate axioms": Command(("evaluate", "axioms", *ON_SQUARES), ("Axioms on 3 images",)),
    "concepts": Command(("concepts", *ON_SQUARES, "-n", "2"), ("2 concepts of 3 images",), ("sklearn",)),
    "reproduce": Command(
        (
            *("reproduce", "pixab-4", "--model", "model.onnx", "--data", "squares"),
            *("--preprocessing", "steps.json", "--methods", "cam", "--step", "200"),
        ),
        ("measuring images", "files in camrt-reproduce"),
        REPORT,
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands are run: a model, images, and how they are prepared."""
    folder = tmp_path_factory.mktemp("terminal")
    colour_model(folder / "model.onnx")
    boxed_squares(folder / "squares", 3)
    coloured_squares(folder / "labelled", each=4)
    (folder / "steps.json").write_text(PREPROCESSING.to_json())
    return folder


def in_terminal(command: Command, folder: Path, columns: int = 100) -> tuple[int, str]:
    """The exit code of a command in a terminal, and all that it wrote there."""
    ours, theirs = pty.openpty()
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    changes = {
        "TERM": "xterm-256color",
        "COLUMNS": str(columns),
        "LINES": "40",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | changes
    start = ["-m", "camrt"]
    if "lightning" in command.needs:
        start = ["-c", WITH_TORCHVISION]
    process = subprocess.Popen(
        [sys.executable, *start, *command.arguments],
        cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    written = b"".join(all_of(ours))
    os.close(ours)
    return process.wait(), written.decode("utf-8", "replace")


def all_of(terminal: int) -> Iterator[bytes]:
    """What is written to a terminal until nobody holds it open any longer, which Linux says by an error."""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            return
        if not data:
            return
        yield data


def seen(written: str) -> str:
    """The words alone: without colours, movements of the cursor, and line ends."""
    return " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written).split())


def leaves(command: typer.core.TyperCommand | typer.core.TyperGroup, name: str = "") -> Iterator[str]:
    """The full names of the commands that do something."""
    inner = getattr(command, "commands", {})
    if not inner:
        yield name
    for each, found in inner.items():
        yield from leaves(found, f"{name} {each}".strip())


def test_every_command_has_its_test_in_a_terminal() -> None:
    without_an_end = {"serve"}  # see tests/engine/serving
    assert set(leaves(typer.main.get_command(app))) == set(COMMANDS) | without_an_end


@pytest.mark.parametrize("name", COMMANDS)
def test_in_a_terminal(name: str, folder: Path) -> None:
    command = COMMANDS[name]
    missing = [library for library in command.needs if find_spec(library) is None]
    if missing:
        pytest.skip(f"camrt {name} needs {', '.join(missing)}")
    if name == "export" and not (folder / "run").exists():
        assert in_terminal(COMMANDS["train classifier"], folder)[0] == 0
    code, written = in_terminal(command, folder)
    assert code == 0, written
    assert "Traceback" not in written
    for words in command.shows:
        assert words in seen(written)


@pytest.mark.parametrize("columns", [80, 120])
def test_explain_alone_in_a_terminal(columns: int, tmp_path: Path) -> None:
    code, written = in_terminal(Command(("explain",), ()), tmp_path, columns)
    assert code == 0, written
    for words in ("probability", "look at camrt-out", "next: camrt explain PHOTO.jpg -o mine --show"):
        assert words in seen(written)
    assert (tmp_path / "camrt-out" / "results.csv").is_file()


def test_many_images_are_few_lines_in_a_terminal(folder: Path, tmp_path: Path) -> None:
    boxed_squares(tmp_path / "many", 40)
    asked = ("explain", str(folder / "model.onnx"), "many", "--preprocessing", str(folder / "steps.json"))
    code, written = in_terminal(Command((*asked, "-m", "cam", "--no-overlays"), ()), tmp_path)
    assert code == 0, written
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written).replace("\r", "\n").splitlines()
    told = [line for line in lines if line.strip() and "explaining" not in line]
    assert [line.partition(":")[0] for line in told] == ["most often", "cam", "files in camrt-out"]


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        pytest.param([], "0/?", id="nothing yet"),
        pytest.param([(2,)], "2/?", id="nobody knows how much"),
        pytest.param([(0.5, 3)], "0.5/3", id="a part of an image"),
        pytest.param([(3, 3), (1, None)], "1/3", id="as much as before"),
        pytest.param(
            [(3, 3, "first"), (1, None, "[bold]then")], "1/?", id="something else, of nobody knows what"
        ),
        pytest.param([(1, 0)], "1/0", id="nothing to do"),
    ],
)
def test_a_bar_shows_what_it_is_told(
    told: list[tuple[Any, ...]], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    with progress_bar("a [title]") as show:
        for each in told:
            show(*each)
    titles = {each[2] for each in told if len(each) == 3} or {"a [title]"}
    last = screen.getvalue().rpartition(shown)[0]
    assert any(title in last.splitlines()[-1] for title in titles), screen.getvalue()


def test_how_long_it_takes_is_told_and_how_far_it_is_each_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("camrt.cli.progress.time", SimpleNamespace(monotonic=lambda: clock[0]))
    with progress_bar("counting", total=100) as show:
        for clock[0], done in ((1, 1), (5, 2), (64, 30), (65, 40.5), (100, 50), (125, 60)):
            show(done, note="3 failed")
    assert capsys.readouterr().err.splitlines() == [
        "counting: 100 in all, which will take about 4 min",
        "counting: 40.5 of 100, 3 failed, 2 min left",
        "counting: 60 of 100, 3 failed, 83 s left",
    ]


@pytest.mark.parametrize("total", [None, 3])
def test_what_is_short_or_nobody_knows_is_not_foretold(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, total: int | None
) -> None:
    clock = [0.0]
    monkeypatch.setattr("camrt.cli.progress.time", SimpleNamespace(monotonic=lambda: clock[0]))
    with progress_bar("counting", total=total, hidden=total is None) as show:
        for clock[0], done in ((5, 1), (61, 2)):
            show(done)
    assert capsys.readouterr().err == ("" if total is None else "counting: 2 of 3, 30 s left\n")


def test_a_bar_is_silent_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("counting") as show:
        show(1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_bar_names_no_time_left_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    with progress_bar("counting") as show:
        show(1)
    assert "1/?" in screen.getvalue()
    assert "left" not in screen.getvalue()
