"""What `camrt evaluate walls` does with `--theory`. What is heavy is imported inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from camrt.engine.consoles import add_row, console, plain, progress_bar
from camrt.errors import InputError

__all__ = ["check_theory_options", "print_theory"]

OF_THEORY = frozenset({"filters", "side", "draws", "picture"})
OF_BOTH = frozenset({"theory", "out", "seed", "resume", "overwrite"})


def check_theory_options(context: typer.Context, *, theory: bool) -> None:
    """Refuses what was given and would have no effect.

    Raises:
        InputError: An option of the measurement on a model with `--theory`, or one of `--theory` without it.
    """
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE" or name in OF_BOTH:
            continue
        shown = name.upper() if name in ("model", "data") else f"--{name.replace('_', '-')}"
        if theory and name not in OF_THEORY:
            raise InputError(f"--theory draws its own networks and takes no {shown}")
        if not theory and name in OF_THEORY:
            raise InputError(f"{shown} is for --theory alone")


def print_theory(asked: dict[str, Any], out: Path, *, resume: bool, overwrite: bool) -> None:
    """Measures the statements, writes them and prints them.

    Args:
        asked: Of `TheorySettings`.
        out: Folder for the results.
        resume: Go on with a run there.
        overwrite: Replace a run there.

    Raises:
        CamrtError: What measuring raises.
    """
    from rich.table import Table

    from camrt.evaluation.walls.theory import FILES, HEADER, TheorySettings, cells, measure_theory, verdict

    with progress_bar("measuring statements") as show:
        found = measure_theory(
            TheorySettings(**asked),
            out=out,
            resume=resume,
            overwrite=overwrite,
            tell=lambda what, done, total: show(done, total, what),
        )
    for name, part in found.parts.items():
        table = Table(*HEADER, title=name)
        for statement in part:
            add_row(table, *cells(statement))
        console().print(table)
    console().print(verdict(found), soft_wrap=True, markup=False)
    console().print(plain(f"files in {out}: {', '.join(FILES)}"), soft_wrap=True, markup=False)
