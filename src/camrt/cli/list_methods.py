"""The command `camrt methods`. What is heavy is imported inside it."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camrt.cli.model_options import ModelOptions, with_model_options
from camrt.cli.output import add_row, make_console, report_errors, strip_control
from camrt.cli.shared_options import Threads
from camrt.default import resolve_model_path

if TYPE_CHECKING:
    from camrt.engine.engine import Engine

__all__ = ["add_command"]


@with_model_options
def methods(
    model: Annotated[
        str | None, typer.Option("--model", help="Measure each method on this model (or default).")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="With --model: target tensor.")] = None,
    most_seconds: Annotated[
        float,
        typer.Option(min=0, help="With --model: what takes longer an image is reckoned from its passes."),
    ] = 5.0,
    threads: Threads = None,
    *,
    model_options: ModelOptions,
) -> None:
    """List the methods and their options; or, of a model, their passes and milliseconds an image."""
    from rich.table import Table

    from camrt.engine.load import load
    from camrt.engine.methods import methods as registry

    with report_errors():
        if model is not None:
            engine = load(resolve_model_path(model), target=layer, threads=threads, **model_options)
            print_costs(engine, most_seconds)
            return
        table = Table("method", "summary", "options (-O KEY=VALUE)")
        kinds = registry()
        guided = [name for name, kind in kinds.items() if hasattr(kind, "map_class")]
        options = {name: dict.fromkeys(describe_options(kind)) for name, kind in kinds.items()}
        first, *others = options.values()
        shared = [option for option in first if others and all(option in other for other in others)]
        for name, kind in kinds.items():
            if name in guided:
                continue
            summary = (kind.__doc__ or "").strip().partition("\n")[0]
            own = [option for option in options[name] if option not in shared]
            add_row(table, name, summary, ", ".join(own))
        console = make_console()
        console.print(table)
        if shared:
            console.print(f"Every method: {', '.join(shared)}.", markup=False)
        if guided:
            console.print(
                f"Times guided back-propagation, with the options of both: {', '.join(guided)}. Likewise "
                "before any of these maps: sess-, refine- (several layers) and finer- (contrast='similar').",
                markup=False,
            )


def print_costs(engine: Engine, most_seconds: float) -> None:
    """Prints a line a method, as each is measured."""
    from camrt.cli.method_costs import measure_methods

    console = make_console()
    console.print("an image, one class; passes beside one through the trunk, at most", markup=False)
    passes = f"{'head':>7}{'full':>7}{'head and back':>15}{'full and back':>15}"
    console.print(f"{'method':<28}{'time':>14}{passes}")
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
