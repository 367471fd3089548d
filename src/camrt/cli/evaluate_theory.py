"""What `camrt evaluate walls` does with `--theory`. What is heavy is imported inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from camrt.cli.output import add_row, make_console, strip_control
from camrt.cli.progress import progress_bar
from camrt.errors import InputError

__all__ = ["check_theory_options", "print_theory"]

OF_THEORY = frozenset({"filters", "side", "draws", "image"})
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


def print_theory(settings: dict[str, Any], out: Path, *, resume: bool, overwrite: bool) -> None:
    """Measures the statements, writes them and prints them.

    Args:
        settings: Of `TheorySettings`.
        out: Folder for the results.
        resume: Go on with a run there.
        overwrite: Replace a run there.

    Raises:
        CamrtError: What measuring raises.
    """
    from rich.table import Table

    from camrt.evaluation.dead_zone.theory import (
        FILES,
        HEADER,
        TheorySettings,
        format_verdict,
        measure_theory,
        statement_cells,
    )

    with progress_bar("measuring statements") as show:
        found = measure_theory(
            TheorySettings(**settings),
            out=out,
            resume=resume,
            overwrite=overwrite,
            progress=lambda what, done, total: show(done, total, what),
        )
    for name, part in found.parts.items():
        table = Table(*HEADER, title=name)
        for statement in part:
            add_row(table, *statement_cells(statement))
        make_console().print(table)
    make_console().print(format_verdict(found), soft_wrap=True, markup=False)
    make_console().print(strip_control(f"files in {out}: {', '.join(FILES)}"), soft_wrap=True, markup=False)
