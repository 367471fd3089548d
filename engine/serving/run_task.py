"""Rows that a thread wants run, and the thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from camrt.engine.runtime import Runner

__all__ = ["BATCH", "Asker", "RunPart", "RunTask"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
BATCH = ""  # the batch among a runner's inputs, which has no name


@dataclass(eq=False)
class Asker:
    """A thread that asks for runs.

    Attributes:
        numbers: In one of its images.
        requests: How many requests it answers.
        asked: What it has asked for so far, in images.
        is_long: Whether that is more than a batch a request.
        is_computing: Whether it is doing something else than to wait for a run.
        stopped: Whether nobody wants its answer any more.
        task: What it waits for.
    """

    numbers: int
    requests: int = 1
    asked: float = 0.0
    is_long: bool = False
    is_computing: bool = False
    stopped: bool = False
    task: RunTask | None = None


@dataclass(eq=False)
class RunTask:
    """Rows that wait to be run.

    Attributes:
        asker: Whose they are.
        runner: What is to run them.
        feeds: Its inputs, the first of them under the name `BATCH`.
        names: Of the outputs that are wanted.
        end: When they are of no use any more, by `time.monotonic`.
        row_size: Numbers in a row, as a share of those in an image.
        arrived: When they came.
        taken: How many rows workers have taken.
        missing: How many rows have no answer yet.
        found: The outputs of rows, by the number of the first.
        error: Why there are none.
        done: Set when it has its answer, or an error.
    """

    asker: Asker
    runner: Runner
    feeds: dict[str, Array]
    names: tuple[str, ...]
    end: float
    row_size: float
    arrived: float = field(default_factory=time.monotonic)
    taken: int = 0
    missing: int = 0
    found: dict[int, list[Array]] = field(default_factory=dict)
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.feeds[BATCH])

    @property
    def kind(self) -> Hashable:
        """What is equal of tasks that can be run together."""
        inputs = sorted((name, tuple(rows.shape[1:]), str(rows.dtype)) for name, rows in self.feeds.items())
        return id(self.runner), *inputs


@dataclass(frozen=True)
class RunPart:
    """Some rows of a task, from a number to before another."""

    task: RunTask
    start: int
    stop: int

    @property
    def size(self) -> float:
        """In images."""
        return (self.stop - self.start) * self.task.row_size
