"""The command `camrt methods`. What is heavy is imported inside it."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camrt.cli.model_options import ModelOptions, with_model_options
from camrt.cli.output import add_row, make_console, report_errors, strip_control
from camrt.cli.shared_options import Threads, complete_method
from camrt.default import resolve_model_path

if TYPE_CHECKING:
    from camrt.engine.engine import Engine

__all__ = ["add_command"]

LONGEST_LINE = 100  # columns of text that is read


@with_model_options
def methods(
    name: Annotated[
        str | None, typer.Argument(help="A method to tell of.", autocompletion=complete_method)
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Measure each method on this model (or default).")
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", "-a", help="List the options of all methods.")] = False,
    layer: Annotated[str | None, typer.Option(help="With --model: target tensor.")] = None,
    most_seconds: Annotated[
        float,
        typer.Option(min=0, help="With --model: what takes longer an image is reckoned from its passes."),
    ] = 5.0,
    threads: Threads = None,
    *,
    model_options: ModelOptions,
) -> None:
    """List the methods; what one is and takes, by its name; or, of a model, their passes and milliseconds."""
    with report_errors():
        if model is not None:
            from camrt.engine.load import load

            engine = load(resolve_model_path(model), target=layer, threads=threads, **model_options)
            print_costs(engine, most_seconds)
        elif name is not None:
            print_method(name)
        else:
            print_methods(show_all)


def print_methods(show_all: bool) -> None:
    """Prints a line a method, with its options if they are asked for."""
    from rich.table import Table

    from camrt.engine.methods import methods as registry

    kinds = {name: kind for name, kind in registry().items() if not hasattr(kind, "map_class")}
    options = {name: dict.fromkeys(describe_options(kind)) for name, kind in kinds.items()}
    first, *others = options.values()
    shared = [option for option in first if others and all(option in other for other in others)]
    table = Table("method", "summary", *(["options (-O KEY=VALUE)"] if show_all else []))
    for name, kind in kinds.items():
        own = [", ".join(option for option in options[name] if option not in shared)]
        add_row(table, name, (kind.__doc__ or "").strip().partition("\n")[0], *(own if show_all else []))
    console = make_console()
    console.print(table)
    if shared and show_all:
        console.print(f"Every method: {', '.join(shared)}.", markup=False)
    console.print(
        "Before the name of a class-activation map: guided- (times guided back-propagation), sess-, refine- "
        "(several layers) and finer- (contrast='similar').",
        markup=False,
    )
    if not show_all:
        console.print("camrt methods NAME tells of one and its options; --all lists those of all")


def print_method(name: str) -> None:
    """Prints what a method is, and its options with their defaults."""
    from camrt.engine.methods import make_method

    kind = type(make_method(name, {}))
    console = make_console()
    for line in wrap_docstring(inspect.getdoc(kind) or kind.name, min(console.width, LONGEST_LINE)):
        console.print(line, markup=False, soft_wrap=True)
    console.print("\noptions (-O KEY=VALUE):")
    for option in describe_options(kind):
        console.print(f"  {option}", markup=False, soft_wrap=True)


def wrap_docstring(text: str, width: int) -> Iterator[str]:
    """The lines of a docstring, wrapped anew: paragraphs, points of lists, and what is described by name."""
    parts: list[str] = []
    for line in text.splitlines():
        begins = re.match(r"\s*([*-] |$|\w+:|\S.* = )", line) or not parts or not parts[-1].strip()
        if begins:
            parts.append(line)
        else:
            parts[-1] += f" {line.strip()}"
    for part in parts:
        indent = " " * (len(part) - len(part.lstrip()) + 2 * part.lstrip().startswith(("* ", "- ")))
        deeper = indent + "    " if re.match(r"\s+\w+: ", part) else indent
        yield from textwrap.wrap(part, width, subsequent_indent=deeper, break_on_hyphens=False) or [""]


def print_costs(engine: Engine, most_seconds: float) -> None:
    """Prints a line a method, as each is measured."""
    from camrt.cli.method_costs import measure_methods

    console = make_console()
    console.print(
        f"each method on one image and class, measured where that takes up to {most_seconds:g} s; passes "
        "beside one through the trunk, at most",
        markup=False,
        soft_wrap=True,
    )
    passes = f"{'head':>7}{'full':>7}{'head and back':>15}{'full and back':>15}"
    console.print(f"{'method':<28}{'time':>14}{passes}", soft_wrap=True)
    for found in measure_methods(engine, most_seconds):
        widths = zip(found.passes, (7, 7, 15, 15), strict=True)
        counts = "".join(f"{count:>{width}}" for count, width in widths)
        line = f"{found.name:<28}{found.time:>14}{counts}  {strip_control(found.why)}"
        console.print(line, markup=False, soft_wrap=True)


def describe_options(method: Any) -> list[str]:
    """The options of a method's class, each with its default."""
    names = []
    for field in fields(method):
        default = field.default
        if default is MISSING and field.default_factory is not MISSING:
            default = field.default_factory()
        names.append(field.name if default is MISSING else f"{field.name}={default!r}")
    return names


def add_command(main: typer.Typer) -> None:
    """Adds the command to the command line."""
    main.command()(methods)
