"""What the command line prints with: consoles, rows, and errors as one paragraph."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from camrt.errors import CamrtError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["add_row", "clear_errors", "console", "plain"]

_PIPE_WIDTH = 240  # columns where the output is no terminal: lines are kept whole for whoever reads them


def plain(text: str) -> str:
    """Text from outside, without the control characters that could steer a terminal."""
    kept = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    encoding = sys.stdout.encoding or "utf-8"
    return kept.encode(encoding, "replace").decode(encoding)


def console(*, stderr: bool = False) -> Console:
    """A Rich console on stdout or stderr, wide where the output is no terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else _PIPE_WIDTH)


def add_row(table: Table, *cells: str, bold: bool = False) -> None:
    """Adds a row of plain text that folds rather than is cut."""
    from rich.text import Text

    table.add_row(*(Text(plain(cell), overflow="fold") for cell in cells), style="bold" if bold else None)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn what a user can put right into one paragraph on stderr and exit code 2."""
    try:
        yield
    except (CamrtError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        from rich.text import Text

        message = Text.assemble(("error: ", "bold red"), plain(str(error)))
        console(stderr=True).print(message, soft_wrap=True)
        raise typer.Exit(2) from None
