"""What the command line prints with: consoles, rows, bars of progress, and errors as one paragraph."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import typer

from camrt.cli.option_names import name_options
from camrt.errors import CamrtError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "ShowProgress",
    "add_row",
    "make_console",
    "print_left_out",
    "progress_bar",
    "report_errors",
    "strip_control",
]

_PIPE_WIDTH = 240  # columns where the output is no terminal: lines are kept whole for whoever reads them


def strip_control(text: str) -> str:
    """Text from outside, without the control characters that could steer a terminal."""
    kept = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    encoding = sys.stdout.encoding or "utf-8"
    return kept.encode(encoding, "replace").decode(encoding)


def make_console(*, stderr: bool = False) -> Console:
    """A Rich console on stdout or stderr, wide where the output is no terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else _PIPE_WIDTH)


def add_row(table: Table, *cells: str, bold: bool = False) -> None:
    """Adds a row of plain text that folds rather than is cut."""
    from rich.text import Text

    for column in table.columns:
        column.overflow = "fold"  # its title too
    table.add_row(
        *(Text(strip_control(cell), overflow="fold") for cell in cells), style="bold" if bold else None
    )


def print_left_out(folder: Path, count: int, on: Console | None = None) -> None:
    """Tells on stderr of results that were met among images and left out."""
    from rich.text import Text

    from camrt.engine.images.read import describe_results

    told = Text(strip_control(describe_results(folder, count)))
    (on or make_console(stderr=True)).print(told, soft_wrap=True)


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
    title: str, *, total: float | None = None, on: Console | None = None
) -> Iterator[ShowProgress]:
    """A bar with the time passed and left, shown while the block runs; nothing where stderr is no terminal.

    Args:
        title: What is being done.
        total: How much there is to do, if it is known yet.
        on: The console for the bar, if other lines are printed on it meanwhile; else one on stderr.
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
            done, whole = (f"{value:.1f}".removesuffix(".0") for value in (task.completed, task.total or 0))
            return Text(f"{done}/{'?' if task.total is None else whole}")

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
    hidden = not sys.stderr.isatty()
    with Progress(*columns, console=screen, transient=True, disable=hidden, redirect_stdout=False) as bar:
        bar.add_task(strip_control(title), total=total, note="")

        def show(done: float, total: float | None = None, title: str | None = None, note: str = "") -> None:
            task = bar.tasks[0].id
            if title is not None and strip_control(title) != bar.tasks[0].description:
                bar.remove_task(task)  # what is new has a time of its own, and perhaps no known total
                task = bar.add_task(strip_control(title), total=total, note=note)
            bar.update(task, completed=done, total=total, note=note)

        yield show


@contextmanager
def report_errors(*, resumes: bool = False) -> Iterator[None]:
    """Turn what a user can put right into one paragraph on stderr and exit code 2.

    Ctrl-C ends with exit code 130.

    Args:
        resumes: Whether the command has --resume, which Ctrl-C then names.
    """
    try:
        yield
    except KeyboardInterrupt:
        hint = "; what was written is whole, the same command with --resume goes on" if resumes else ""
        make_console(stderr=True).print(f"stopped{hint}", soft_wrap=True)
        raise typer.Exit(130) from None
    except (CamrtError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        from rich.text import Text

        message = Text.assemble(("error: ", "bold red"), name_options(strip_control(str(error))))
        make_console(stderr=True).print(message, soft_wrap=True)
        raise typer.Exit(2) from None
