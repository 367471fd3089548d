"""What the command line prints with: consoles, rows, and errors as one paragraph."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from camrt.cli.option_names import name_options
from camrt.errors import CamrtError, CamrtWarning

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "add_row",
    "make_console",
    "print_left_out",
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


@contextmanager
def print_warnings() -> Iterator[None]:
    """Turn camrt's warnings into a paragraph each on stderr, every text once, without a place in the code."""
    from rich.text import Text

    others, told = warnings.showwarning, set[str]()

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if not issubclass(category, CamrtWarning):
            others(message, category, *place, **more)
        elif str(message) not in told:
            told.add(str(message))
            text = Text.assemble(("warning: ", "bold yellow"), name_options(strip_control(str(message))))
            make_console(stderr=True).print(text, soft_wrap=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def report_errors(*, resumes: bool = False, replaces: bool = False) -> Iterator[None]:
    """Turn what a user can put right into one paragraph on stderr and exit code 2.

    Ctrl-C ends with exit code 130.

    Args:
        resumes: Whether the command has --resume, which Ctrl-C then names.
        replaces: Whether it was given --overwrite, which does not go with that.
    """
    try:
        with print_warnings():
            yield
    except KeyboardInterrupt:
        instead = " in place of --overwrite" if replaces else ""
        goes_on = f"; what was written is whole, the same command with --resume{instead} goes on"
        hint = goes_on if resumes else ""
        make_console(stderr=True).print(f"stopped{hint}", soft_wrap=True)
        raise typer.Exit(130) from None
    except (CamrtError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        from rich.text import Text

        message = Text.assemble(("error: ", "bold red"), name_options(strip_control(str(error))))
        make_console(stderr=True).print(message, soft_wrap=True)
        raise typer.Exit(2) from None
