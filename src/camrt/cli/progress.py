"""How far a command is: a bar in a terminal, elsewhere a line a minute; and how long it will take."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from camrt.cli.output import make_console, strip_control

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ShowProgress", "in_words", "progress_bar"]

SECONDS_A_LINE = 60.0  # between lines where there is no terminal
SETTLED_SECONDS = 5.0  # after which the time that one thing took tells of the others
LONG_SECONDS = 60.0  # what takes longer is told of beforehand


class ShowProgress(Protocol):
    """What a bar of progress is told."""

    def __call__(
        self, done: float, total: float | None = None, title: str | None = None, note: str = ""
    ) -> None:
        """Shows how much is done.

        Args:
            done: So much.
            total: Of so much, where that is known and was not told before.
            title: What is being done now, where that changed.
            note: What else there is to say, behind the bar.
        """


@contextmanager
def progress_bar(
    title: str, *, total: float | None = None, on: Console | None = None, hidden: bool = False
) -> Iterator[ShowProgress]:
    """A bar with the time passed and left, shown while the block runs; a line a minute without a terminal.

    What will take longer than a minute is told once in a line of its own, as soon as that is known.

    Args:
        title: What is being done.
        total: How much there is to do, if it is known yet.
        on: The console for the bar, if other lines are printed on it meanwhile; else one on stderr.
        hidden: Whether nothing is to be shown, as of a process that is one of many.
    """
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Count(ProgressColumn):
        """How much is done, and of how much: "?" as long as nobody knows."""

        def render(self, task: Task) -> Text:
            return Text(f"{as_count(task.completed)}/{as_count(task.total)}")

    class Remaining(TimeRemainingColumn):
        """How long it will take yet, as soon as that can be told."""

        def render(self, task: Task) -> Text:
            if task.total is None or task.time_remaining is None:
                return Text()
            return Text.assemble(super().render(task), " left")

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        Count(),
        TimeElapsedColumn(),
        Remaining(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    screen = make_console(stderr=True) if on is None else on
    screen.quiet = screen.quiet or hidden
    piped = not sys.stderr.isatty()
    with Progress(*columns, console=screen, transient=True, disable=piped, redirect_stdout=False) as bar:
        bar.add_task(strip_control(title), total=total, note="")
        lines = ProgressLines(screen, title, total, each_minute=piped)

        def show(done: float, total: float | None = None, title: str | None = None, note: str = "") -> None:
            task = bar.tasks[0].id
            if title is not None and strip_control(title) != bar.tasks[0].description:
                bar.remove_task(task)  # what is new has a time of its own, and perhaps no known total
                task = bar.add_task(strip_control(title), total=total, note=note)
                lines.begin(title, total)
            bar.update(task, completed=done, total=total, note=note)
            lines.update(done, total, note)

        yield show


class ProgressLines:
    """The lines that tell how long something will take, and how far it is where no bar does.

    Args:
        screen: Where.
        title: What is being done.
        total: How much there is to do, if it is known yet.
        each_minute: Whether to tell how far it is.
    """

    def __init__(self, screen: Console, title: str, total: float | None, *, each_minute: bool) -> None:
        self._screen = screen
        self._each_minute = each_minute
        self.begin(title, total)

    def begin(self, title: str, total: float | None) -> None:
        """Something else is being done from now on."""
        self._title, self._total = title, total
        self._begun = self._told = time.monotonic()
        self._foretold = False

    def update(self, done: float, total: float | None, note: str) -> None:
        """So much is done; prints what there is to say of it."""
        self._total = self._total if total is None else total
        now = time.monotonic()
        passed = now - self._begun
        left = None if self._total is None or not done else passed * max(self._total - done, 0) / done
        if not self._foretold and left is not None and passed >= SETTLED_SECONDS:
            self._foretold = True
            if left >= LONG_SECONDS:
                self._told = now
                self._print(
                    f"{as_count(self._total)} in all, which will take about {in_words(passed + left)}"
                )
        if self._each_minute and now - self._told >= SECONDS_A_LINE:
            self._told = now
            parts = [f"{as_count(done)} of {as_count(self._total)}", note]
            parts.append("" if left is None else f"{in_words(left)} left")
            self._print(", ".join(filter(None, parts)))

    def _print(self, text: str) -> None:
        self._screen.print(strip_control(f"{self._title}: {text}"), markup=False, soft_wrap=True)


def as_count(value: float | None) -> str:
    """How much of something there is: "?" where nobody knows."""
    return "?" if value is None else f"{value:.1f}".removesuffix(".0")


def in_words(seconds: float) -> str:
    """A time in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
