"""Kills and interrupts commands at random points, fills the disk under them, and compares what they end with.

    python tests/helpers/fault_injection.py --kills 100                  # a table of all commands
    python tests/helpers/fault_injection.py --kills 5 --only explain     # what the tests run

Every command runs in a process that is forked off, which has everything imported and has started nothing. It
is killed at a random moment or at a random operation in its folder of results (a file opened for writing, put
on the disk, moved, removed), and goes on with --resume, where it may be killed again; in the end its folder
must be that of an undisturbed run. `--full` does the same with a disk that is full from a random operation
on: the command must end with an error that says so and names a file, unless it only removes files from there.
`--interrupts` sends Ctrl-C's signal: the command must say that it was stopped, and end with exit code 130.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from helpers.annotated_images import COLOURS, PREPROCESSING, boxed_squares, colour_model, dead_zone_model
from helpers.labelled_images import coloured_squares
from helpers.peer_libraries import mend_torchvision

CommandLine = list[str]
Fault = Literal["kill", "interrupt", "full"]


@dataclass(frozen=True)
class Command:
    """A command that resumes.

    Attributes:
        line: Given a folder with its inputs and its folder of results, the words of the command.
        marker: The file without which there is nothing to resume; empty where --resume may begin.
        without: Names that may differ in the end.
    """

    line: Callable[[Path, Path], CommandLine]
    marker: str = ""
    without: tuple[str, ...] = ()


def shared_arguments(inputs: Path, model: str) -> CommandLine:
    return [
        *(str(inputs / model), str(inputs / "squares")),
        *("--preprocessing", str(inputs / "steps.json"), "--labels", str(inputs / "labels.txt")),
        *("--batch-size", "2"),
    ]


def explain(inputs: Path, out: Path) -> CommandLine:
    asked = ("-m", "gradcam", "-k", "2", "--write", "overlays,arrays,maps,table", "--block-size", "2")
    return ["explain", *shared_arguments(inputs, "colours.onnx"), *asked, "-o", str(out)]


def evaluate(inputs: Path, out: Path) -> CommandLine:
    asked = ("--methods", "gradcam,eigen", "--metrics", "drop,pointing", "--examples", "1")
    return ["evaluate", *shared_arguments(inputs, "colours.onnx"), *asked, "-o", str(out)]


def walls(inputs: Path, out: Path) -> CommandLine:
    asked = ("--methods", "gradcam,hirescam", "--dead-rows", "8", "-o", str(out))
    return ["evaluate", "walls", *shared_arguments(inputs, "colours.onnx"), *asked]


def theory(inputs: Path, out: Path) -> CommandLine:
    return ["evaluate", "walls", "--theory", "--filters", "24", "--draws", "50", "-o", str(out)]


def sanity(inputs: Path, out: Path) -> CommandLine:
    asked = ("--methods", "gradcam,eigen", "--stages", "2", "--limit", "2", "-o", str(out))
    steps = ("--preprocessing", str(inputs / "steps.json"))
    return ["evaluate", "sanity", str(inputs / "colours.onnx"), str(inputs / "squares"), *steps, *asked]


def reproduce(inputs: Path, out: Path) -> CommandLine:
    model, data, *rest = shared_arguments(inputs, "walled.onnx")
    data = str(inputs / "classes")
    asked = ("--methods", "gradcam,hirescam", "-o", str(out))
    return ["reproduce", "walls", "pixab-3", "--model", model, "--data", data, *rest, *asked]


def train(inputs: Path, out: Path, data: str = "classes", epochs: int = 3) -> CommandLine:
    return [
        *("train", "--data", str(inputs / data), "--out", str(out), "--head", "calm-ml"),
        *("--backbone", "tiny", "--size", "32", "--epochs", str(epochs), "--batch-size", "4"),
        *("--set", "workers=0", "--set", "checkpoint_steps=2", "--accelerator", "cpu"),
    ]


def search(inputs: Path, out: Path) -> CommandLine:
    return [*train(inputs, out, "boxed", 2), "--search", "2", "--lr-range", "1e-3,0.1"]


def masked_vgg(inputs: Path, out: Path) -> CommandLine:
    return [
        *("train", "masked-vgg", "--data", str(inputs / "classes"), "--out", str(out), "--epochs", "2"),
        *("--batch-size", "3", "--workers", "0", "--checkpoint-steps", "2"),
    ]


COMMANDS = {
    "explain": Command(explain),
    "evaluate": Command(evaluate),
    "walls": Command(walls),
    "theory": Command(theory),
    "sanity": Command(sanity),
    "reproduce": Command(reproduce),
    "train": Command(train, "recipe.yaml", ("logs", "written.jsonl", "last.safetensors")),
    "search": Command(search, "run.json", ("logs", "written.jsonl")),
    "masked-vgg": Command(masked_vgg, "run.json", ("written.jsonl",)),
}
PRELOADED_MODULES = (
    "camrt.cli.main",
    "camrt.cli.explain_run",
    "camrt.engine.load",
    "camrt.engine.runs.job",
    "camrt.evaluation.suite",
    "camrt.evaluation.suite.report",
    "camrt.evaluation.suite.report.page",
    "camrt.evaluation.papers.reproduction",
    "camrt.evaluation.dead_zone.detection",
    "camrt.evaluation.metrics.randomisation",
    "pyarrow.parquet",
    "matplotlib.figure",
)
TRAINING_MODULES = ("camrt.training.lr_search", "camrt.training.masked_runs", "onnxscript")


def make_inputs(folder: Path) -> None:
    """Models and images of all commands."""
    colour_model(folder / "colours.onnx")
    dead_zone_model(folder / "walled.onnx")
    boxed_squares(folder / "squares", 5)
    coloured_squares(folder / "classes", each=4)
    coloured_squares(folder / "boxed", each=4, boxed=True)
    (folder / "steps.json").write_text(PREPROCESSING.to_json())
    (folder / "labels.txt").write_text("\n".join(COLOURS))


class FaultInjector:
    """What happens at the n-th operation in a folder, seen by Python's audit hooks and by fsync.

    Args:
        out: The folder.
        at: Which operation; 0 for none.
        what: Whether the process is killed then, is interrupted, or finds the disk full from then on.
        told: Where to write how many operations there were.
    """

    def __init__(self, out: Path, at: int, what: Fault, told: Path) -> None:
        self.out, self.at, self.what, self.told = str(out), at, what, told
        self.count = 0
        self.sync = os.fsync

    def begin(self) -> None:
        sys.addaudithook(self.hook)
        os.fsync = self.fsync

    def hook(self, event: str, given: tuple[Any, ...]) -> None:
        written = (
            event == "open"
            and isinstance(given[2], int)
            and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        freeing = event in ("os.remove", "os.rmdir", "os.truncate")
        if not written and event not in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"):
            return
        if isinstance(given[0], int) or not os.fsdecode(given[0]).startswith(self.out):
            return
        self.happens(freeing)

    def fsync(self, handle: int) -> None:
        self.happens(False)
        self.sync(handle)

    def happens(self, freeing: bool) -> None:
        self.count += 1
        if self.at and self.count >= self.at:
            if self.what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.what == "interrupt":
                self.at = 0
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            elif not freeing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


EXPECTED_ENDS = {
    "interrupt": ("Ctrl-C", 130, ("stopped", "--resume")),
    "full": ("a full disk", 2, ("disk is full",)),
}
"""What it is called that happens to a command, its exit code then, and words that it says."""


def fork(line: CommandLine, out: Path, at: int = 0, what: Fault = "kill") -> tuple[int, Path]:
    """Begins a command in a process of its own; its output and number of operations go beside its folder."""
    told = out.with_name(f"{out.name}.told")
    child = os.fork()
    if child:
        return child, told
    code = 70
    try:
        handle = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        if torch := sys.modules.get("torch"):  # its threads are not in a forked process
            torch.set_num_threads(1)
        disturbed = FaultInjector(out, at, what, told)
        disturbed.begin()
        from camrt.cli.main import app

        try:
            app(line)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 71
        sys.stdout.flush()
        sys.stderr.flush()
        disturbed.at = 0
        told.with_suffix(".count").write_text(str(disturbed.count))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def wait_for_exit(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_undisturbed(line: CommandLine, out: Path) -> tuple[int, float]:
    """Runs a command to its end; how many operations it has, and how long it takes."""
    start = time.monotonic()
    child, told = fork(line, out)
    code = wait_for_exit(child)
    if code:
        raise SystemExit(f"{' '.join(line)} ends with {code}:\n{told.read_text()}")
    return int(told.with_suffix(".count").read_text()), time.monotonic() - start


def resume_line(command: Command, line: CommandLine, out: Path) -> CommandLine:
    """The command that goes on with what is there."""
    begun = not command.marker or (out / command.marker).exists()
    return [*line, "--resume"] if begun else line


def read_results(folder: Path, without: Sequence[str]) -> dict[str, bytes]:
    """All files of a folder, but for what may differ; archives without the seconds they took."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_dir() or set(name.parts) & set(without):
            continue
        if path.suffix == ".npz":
            with np.load(path) as archive:
                for key in set(archive) - {"seconds"}:
                    found[f"{name}/{key}"] = archive[key].tobytes()
        else:
            found[name.as_posix()] = path.read_bytes()
    return found


class CommandTrial:
    """One command under kills, or on disks that fill."""

    def __init__(self, name: str, place: Path, seed: int) -> None:
        self.name, self.command = name, COMMANDS[name]
        self.inputs, self.place = place / "inputs", place / name
        self.place.mkdir()
        self.rng = random.Random(f"{seed} {name}")
        whole = self.place / "whole"
        # At the place where all runs are, since what is written may name it.
        self.out = self.place / "out"
        self.line = self.command.line(self.inputs, self.out)
        self.operations, self.seconds = run_undisturbed(self.line, self.out)
        self.expected = read_results(self.out, self.command.without)
        self.out.rename(whole)
        self.runs = self.kills = self.wrong = 0

    def check(self, what: str) -> None:
        """Goes on to the end, and compares."""
        line = resume_line(self.command, self.line, self.out)
        child, told = fork(line, self.out)
        code = wait_for_exit(child)
        found = read_results(self.out, self.command.without) if not code else {}
        if code or found != self.expected:
            self.wrong += 1
            differing = sorted(k for k in {*found, *self.expected} if found.get(k) != self.expected.get(k))
            print(f"{self.name}: after {what}: exit {code}, differing: {differing[:5]}\n{told.read_text()}")
        self.runs += 1
        shutil.rmtree(self.out, ignore_errors=True)

    def kill(self) -> None:
        """One kill at a random point of what is left to do."""
        line = resume_line(self.command, self.line, self.out)
        if self.rng.random() < 0.6:
            child, _ = fork(line, self.out, self.rng.randint(1, self.operations))
        else:
            child, _ = fork(line, self.out)
            time.sleep(self.rng.uniform(0.2, 1.0) * self.seconds)
            os.kill(child, signal.SIGKILL)
        if wait_for_exit(child) == -signal.SIGKILL:
            self.kills += 1

    def kill_often(self, kills: int) -> None:
        """Runs of one kill or several, until there were enough."""
        while self.kills < kills and not self.wrong:
            before = self.kills
            self.kill()
            while self.rng.random() < 0.4:
                self.kill()
            self.check(f"{self.kills - before} kills")

    def disturb(self, times: int, what: Literal["interrupt", "full"]) -> None:
        """Ctrl-C at a random operation, or a disk that is full from one on."""
        name, expected, words = EXPECTED_ENDS[what]
        words = (*words, str(self.out)) if what == "full" else words
        for _ in range(times):
            at = self.rng.randint(1, self.operations)
            child, told = fork(self.line, self.out, at, what)
            code, said = wait_for_exit(child), told.read_text()
            clear = all(word in said for word in words) and "Traceback" not in said
            if code and not (code == expected and clear):
                self.wrong += 1
                print(f"{self.name}: {name} at operation {at} of {self.operations}: exit {code}:\n{said}")
            self.check(f"{name} at operation {at}")


def main() -> int:
    """Reads the command line, and prints a table."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--kills", type=int, default=100, help="of each command")
    options.add_argument("--interrupts", type=int, default=20, help="of each command, by Ctrl-C's signal")
    options.add_argument("--full", type=int, default=20, help="disks that fill, of each command")
    options.add_argument("--only", default=",".join(COMMANDS), help="commands, separated by commas")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    names = given.only.split(",")
    trains = bool({"train", "search", "masked-vgg"} & set(names))
    if trains:
        mend_torchvision()
    measures = ("scipy.stats", "skimage.metrics") if "sanity" in names else ()
    for module in (*PRELOADED_MODULES, *measures, *(TRAINING_MODULES if trains else ())):
        importlib.import_module(module)
    theory = importlib.import_module("camrt.evaluation.dead_zone.theory")
    # Kept in the folder as the other parts are, at three seconds a run.
    theory.STATEMENT_CHECKS = {
        name: part for name, part in theory.STATEMENT_CHECKS.items() if name != "masked VGG-16"
    }
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "inputs").mkdir()
        make_inputs(Path(folder) / "inputs")
        print("| command | operations | kills | interrupts | disks full | runs that went on | wrong ends |")
        print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
        for name in names:
            tried = CommandTrial(name, Path(folder), given.seed)
            tried.kill_often(given.kills)
            tried.disturb(given.interrupts, "interrupt")
            tried.disturb(given.full, "full")
            figures = (tried.operations, tried.kills, given.interrupts, given.full, tried.runs, tried.wrong)
            print(f"| {name} | {' | '.join(map(str, figures))} |", flush=True)
            wrong += tried.wrong
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
