"""The command line: `python -m tests.fuzz --files N --seed S --out DIR`."""

from __future__ import annotations

import argparse
import queue
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import onnx
import onnxruntime

from fuzz.files import make_file
from fuzz.journal import Journal, table
from fuzz.minimising import fewest_changes, smallest
from fuzz.trying import Limits, Outcome
from fuzz.workers import Worker

__all__ = ["main", "run"]

KEPT = 3
"""Files kept of those that fail in the same way."""
EVERY = 500
"""Files between two lines of progress."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the fuzzer; 1 where anything was not clean."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--files", type=int, default=1000, help="how many files to try")
    parser.add_argument("--seed", type=int, default=0, help="which files")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the journal, the table and what failed"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--resume", action="store_true", help="go on where the journal in --out ends")
    parser.add_argument("--only", type=int, help="try the file of this number alone, and say what came of it")
    parser.add_argument("--file", type=Path, help="try this file alone")
    parser.add_argument("--no-minimising", action="store_true", help="keep files that fail as they are")
    parser.add_argument(
        "--memory", type=int, default=Limits.memory, help="bytes that a call may take at once"
    )
    parser.add_argument("--seconds", type=float, default=Limits.seconds, help="that a call may take")
    parser.add_argument("--backend", default=Limits.backend, help="what runs the files: openvino, for one")
    given = parser.parse_args(arguments)
    limits = Limits(seconds=given.seconds, memory=given.memory, backend=given.backend)
    if given.only is not None or given.file is not None:
        return alone(given.seed, given.only or 0, given.file, given.out, limits)
    lines = run(
        given.files,
        given.seed,
        given.out,
        limits,
        given.jobs,
        resume=given.resume,
        minimise=not given.no_minimising,
    )
    text = table(lines)
    (given.out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return int(any(line["word"] not in ("refused", "answered") for line in lines))


def alone(seed: int, index: int, path: Path | None, out: Path, limits: Limits) -> int:
    """One file, written to the folder, and its outcome."""
    out.mkdir(parents=True, exist_ok=True)
    if path is None:
        made = make_file(seed, index)
        path = out / f"{seed}_{index}.onnx"
        path.write_bytes(made.data)
        print(f"{path}: {made.seed}", *made.changes, sep="\n  ")
    with Worker(limits) as worker:
        outcome, _ = worker.of_file(path, index)
    print(outcome)
    return int(not outcome.clean)


def run(
    files: int,
    seed: int,
    out: Path,
    limits: Limits,
    jobs: int = 1,
    *,
    resume: bool = False,
    minimise: bool = True,
) -> list[dict[str, object]]:
    """Tries the files of the numbers below `files`, and keeps what was not clean.

    Args:
        files: How many.
        seed: Which.
        out: Folder of the journal and of what failed.
        limits: What a file may take.
        jobs: Processes at once.
        resume: Whether to go on from the folder's journal.
        minimise: Whether files that fail are made small.

    Returns:
        The journal's lines.
    """
    out.mkdir(parents=True, exist_ok=True)
    settings = {
        "seed": seed,
        "limits": asdict(limits),
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    journal = Journal(out / "journal.jsonl", settings, resume=resume)
    waiting = iter([index for index in range(files) if index not in journal.done])
    keeper = Keeper(seed, out / "failures", limits, minimise)
    lock, failed = threading.Lock(), queue.SimpleQueue[BaseException]()
    started, before = time.monotonic(), len(journal.done)

    def next_index() -> int | None:
        with lock:
            return next(waiting, None)

    def work() -> None:
        try:
            with Worker(limits) as worker:
                for index in iter(next_index, None):
                    outcome, said = worker.of_number(seed, index)
                    kind = said.get("kind") or make_file(seed, index).kind
                    if not outcome.clean:
                        keeper.keep(index, outcome, worker)
                    journal.add(index, kind, outcome)
                    done = len(journal.done)
                    if done % EVERY == 0:
                        rate = (done - before) / (time.monotonic() - started)
                        print(f"{done} files, {rate:.1f} a second", file=sys.stderr, flush=True)
        except BaseException as error:  # given to the caller
            failed.put(error)

    threads = [threading.Thread(target=work) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not failed.empty():
        raise failed.get()
    return journal.lines()


class Keeper:
    """Keeps files that failed, as small as they go.

    Args:
        seed: Of the run.
        folder: Where.
        limits: What a file may take.
        minimise: Whether they are made small.
    """

    def __init__(self, seed: int, folder: Path, limits: Limits, minimise: bool) -> None:
        self._seed, self._folder, self._limits, self._minimise = seed, folder, limits, minimise
        self._kept: Counter[str] = Counter()
        self._lock = threading.Lock()
        if folder.is_dir():
            self._kept.update(path.name.rsplit("__", 1)[0] for path in folder.glob("*.onnx"))

    def keep(self, index: int, outcome: Outcome, worker: Worker) -> None:
        """Keeps the file of a number, if not enough like it are kept."""
        name = re.sub(r"[^A-Za-z0-9.]+", "_", outcome.key).strip("_")[:120]
        with self._lock:
            self._kept[name] += 1
            if self._kept[name] > KEPT:
                return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}__{index}.onnx"
        data = make_file(self._seed, index).data
        path.write_bytes(data)
        if not self._minimise or self._kept[name] > 1:
            return
        trial = path.with_suffix(".trying")

        def fails(tried: bytes) -> bool:
            trial.write_bytes(tried)
            return worker.of_file(trial, index)[0].key == outcome.key

        if outcome.word in ("hang", "late"):  # each try would take as long
            data = fewest_changes(self._seed, index, fails)
        elif fails(data):
            data = smallest(fewest_changes(self._seed, index, fails), fails)
        path.write_bytes(data)
        trial.unlink(missing_ok=True)
