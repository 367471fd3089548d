"""The command `camrt inspect`. What is heavy is imported inside it."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from camrt.cli.model_options import ModelOptions, with_model_options
from camrt.cli.option_names import name_options
from camrt.cli.output import add_row, make_console, report_errors, strip_control
from camrt.cli.shared_options import Model
from camrt.default import resolve_model_path

if TYPE_CHECKING:
    from rich.console import Console

    from camrt.engine.engine import Engine

__all__ = ["add_command"]

MOST_LABELS = 10  # that are shown where not all are asked for


@with_model_options
def inspect(
    model: Model,
    layer: Annotated[str | None, typer.Option(help="Target tensor.")] = None,
    show_all: Annotated[
        bool, typer.Option("--all", "-a", help="Also what each method costs, and the tensors to cut at.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(help="Compare every kind of answer with the model's own on noise, and list the errors."),
    ] = False,
    *,
    model_options: ModelOptions,
) -> None:
    """Show what was found in a model's file, and where it is cut."""
    with report_errors():
        from camrt.engine.load import load

        engine = load(
            resolve_model_path(model), target=layer, verify="thorough" if verify else True, **model_options
        )
        console = make_console()
        for line in engine.describe(costs=show_all).splitlines():
            print_indented(console, name_options(strip_control(line)))
        if engine.labels:
            shown = engine.labels if show_all else engine.labels[:MOST_LABELS]
            more = " …" * (len(shown) < len(engine.labels))
            print_indented(console, f"  labels  {strip_control(', '.join(shown))}{more}")
        if show_all:
            print_targets(console, engine)
        else:
            console.print("--all lists all labels, what each method costs, and the tensors for --layer")
        if verify:
            print_verification(console, engine)


def print_indented(console: Console, line: str) -> None:
    """Prints a line; what does not fit into the terminal goes on below its text."""
    wide = console.width if console.is_terminal else len(line) + 1
    for part in textwrap.wrap(line, wide, subsequent_indent=" " * 10, break_on_hyphens=False) or [""]:
        console.print(part, markup=False, soft_wrap=True)


def print_targets(console: Console, engine: Engine) -> None:
    """Prints the tensors that a model could be cut at."""
    from rich.table import Table

    table = Table("target", "node", "operator", "K x h x w", "clean", "chosen", title="Targets")
    for found in engine.targets():
        shape = " x ".join("?" if side is None else str(side) for side in found.shape)
        yes_no = ["yes" if flag else "no" for flag in (found.clean, found.chosen)]
        add_row(table, found.name, found.node, found.operator, shape, *yes_no, bold=found.chosen)
    console.print(table)


def print_verification(console: Console, engine: Engine) -> None:
    """Prints what was compared with the model's own answers, and how near it came."""
    from rich.table import Table

    compared = Table("question", "times", "largest error", "allowed", "agrees", title="Compared on noise")
    for question in dict.fromkeys(one.question for one in engine.verification):
        same = [one for one in engine.verification if one.question == question]
        largest = max(one.error for one in same)
        result = "yes" if all(one.agrees for one in same) else "no"
        error = f"{largest:.1e}"
        if all(one.refused is not None for one in same):
            error, result = "none", f"refused: {same[0].refused}"
        add_row(compared, question, str(len(same)), error, f"{same[0].allowed:g}", result)
    console.print(compared)


def add_command(main: typer.Typer) -> None:
    """Adds the command to the command line."""
    main.command()(inspect)
