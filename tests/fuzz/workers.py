"""Processes that try files: watched, and begun again when one crashes, hangs or has grown."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from fuzz.trying import Limits, Outcome

__all__ = ["Tried", "Worker"]

START = 120.0
"""Seconds that a process may take to import what it needs, on a busy machine."""
FILES_EACH = 3000
"""Tried by one process, which may lose some memory by every one of them."""
HARD_STOP = 6 << 30
"""Bytes of addresses that a process may take beyond those it has when it begins."""

Tried = tuple[Outcome, dict[str, Any]]


class Worker:
    """One process at a time; used by one thread.

    Args:
        limits: What a file may take.
        hard_stop: Bytes of addresses that the process may take more than it has when it begins; 0 for any.
    """

    def __init__(self, limits: Limits, hard_stop: int = HARD_STOP) -> None:
        self._limits = limits
        self._hard_stop = hard_stop
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._errors: IO[bytes] | None = None
        self._tried = 0

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def of_number(self, seed: int, index: int) -> Tried:
        """Tries the file of a number; the outcome, and what is known of the file unless the process died."""
        return self._try({"seed": seed, "index": index})

    def of_file(self, path: Path, index: int) -> Tried:
        """Tries a file as it is, asked what a number says."""
        return self._try({"file": str(path), "index": index})

    def stop(self) -> None:
        """Ends the process."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                pipe.close()
        self._process = None

    def _start(self) -> subprocess.Popen[str]:
        here = str(Path(__file__).parents[1])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
        environment["CAMRT_INTERNAL_ERRORS"] = "raise"  # what a user is told of them is counted as raw here
        for library in ("MKL", "OMP", "OPENBLAS"):
            environment[f"{library}_NUM_THREADS"] = "1"
        settings = {"limits": asdict(self._limits), "addresses": self._hard_stop}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", "fuzz.worker", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
        )
        self._lines = lines = queue.SimpleQueue()
        stream = process.stdout
        assert stream is not None

        def listen() -> None:
            for line in stream:
                lines.put(line)
            lines.put(None)

        threading.Thread(target=listen, daemon=True).start()
        self._tried = 0
        ready = self._next(START)
        if ready is None or json.loads(ready).get("step") != "ready":
            raise RuntimeError(f"the process that tries files does not begin: {self._said()}")
        return process

    def _next(self, seconds: float) -> str | None:
        """The next line; None when the process has ended. Raises `queue.Empty` after so many seconds."""
        return self._lines.get(timeout=seconds)

    def _said(self) -> str:
        """What the process wrote to its standard error, the end of it."""
        if self._errors is None:
            return ""
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 4000))
        return self._errors.read().decode(errors="replace")

    def _try(self, job: dict[str, Any]) -> Tried:
        if self._process is not None and self._tried >= FILES_EACH:
            self.stop()
        process = self._process or self._start()
        self._tried += 1
        assert process.stdin is not None
        step = "start"
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            while (line := self._next(self._limits.seconds + 2 * self._limits.grace)) is not None:
                told = json.loads(line)
                if "outcome" in told:
                    return Outcome(**told.pop("outcome")), told
                step = told["step"]
        except queue.Empty:
            self.stop()
            return named("hang", step, f"nothing for {self._limits.seconds + 2 * self._limits.grace:g} s"), {}
        except BrokenPipeError:
            pass
        code = process.wait()
        said = self._said()
        self.stop()
        return named("crash", step, f"exit status {code}: {last_words(said)}"), {}


def named(word: str, step: str, text: str) -> Outcome:
    """What a process that died tells; a death in what plain onnxruntime was asked is not camrt's."""
    return (
        Outcome("answered", f"plain onnxruntime: {word}", text)
        if step == "oracle"
        else Outcome(word, step, text)
    )


def last_words(said: str) -> str:
    """The innermost of camrt's functions that a crash names, or the end of what was written."""
    lines = [line.strip() for line in said.splitlines()]
    begins = next((i for i, line in enumerate(lines) if line.startswith("Current thread")), 0)
    ours = [line for line in lines[begins:] if line.startswith("File ") and "/tests/" not in line]
    return (ours or lines[-1:] or [""])[0][:200]
