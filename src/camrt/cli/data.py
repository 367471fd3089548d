"""The commands under `camrt data`, which make data sets. What is heavy is imported inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from camrt.cli.output import make_console, report_errors, strip_control
from camrt.cli.shared_options import Annotations, Seed

__all__ = ["add_commands"]

app = typer.Typer(help="Make data sets of your images.", no_args_is_help=True)


@app.callback()
def _main() -> None:
    """Options before any command."""


@app.command("stack-mix")
def stack_mix(
    images: Annotated[Path, typer.Argument(help="A folder for each class, with images at any depth.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the set, empty or not there yet.")],
    dead_rows: Annotated[
        int, typer.Option(min=1, help="How many rows, the lowest ones, are the other image's.")
    ] = 54,
    size: Annotated[int, typer.Option(min=2, help="Side of the images.")] = 224,
    classes: Annotated[
        int | None,
        typer.Option(min=1, help="How many classes are drawn; else 100, or all if there are fewer."),
    ] = None,
    named: Annotated[
        list[str] | None, typer.Option("--class", help="Take this class, and draw none; repeatable.")
    ] = None,
    first: Annotated[
        int | None,
        typer.Option(min=1, help="Draw from the first classes alone; ImageNet's first 398 are animals."),
    ] = None,
    annotations: Annotations = None,
    seed: Seed = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the set in that folder: its files alone are removed.")
    ] = False,
) -> None:
    """Stack two images of a class, the lower one where a masked network is blind (STACK-MIX).

    See through Walls has 100 such images for its masked VGG-16, which cannot see the lowest 54 of 224 rows.
    """
    with report_errors():
        from camrt.errors import InputError
        from camrt.evaluation.dead_zone.stack_mix_dataset import TABLE_FILE, write_stack_mix_dataset

        if classes is not None and named:
            raise InputError("--classes draws classes and --class names them: give one of them")
        made = write_stack_mix_dataset(
            images,
            out,
            annotations=annotations,
            overwrite=overwrite,
            dead_rows=dead_rows,
            size=size,
            classes=named or classes,
            first=first,
            seed=seed,
        )
        stacks, screen = made.stacks, make_console()
        lines = [
            f"{len(stacks.files)} images of {size}×{size} in {out}, one a class: the lowest {dead_rows} "
            f"rows are another image's of the class; {made.boxed} have boxes of the upper object "
            f"({TABLE_FILE})"
        ]
        if stacks.left_out:
            shown = ", ".join(stacks.left_out[:5]) + " …" * (len(stacks.left_out) > 5)
            lines.append(f"left out, for want of two different images that can be read: {shown}")
        if stacks.unreadable:
            lines.append(f"{len(stacks.unreadable)} images cannot be read, such as {stacks.unreadable[0]}")
        if made.problems:
            lines.append(f"{len(made.problems)} problems with annotations, such as {made.problems[0]}")
        lines.append("look through them: the paper kept those whose second object lies in the lower rows")
        for line in lines:
            screen.print(strip_control(line), soft_wrap=True, markup=False)


def add_commands(main: typer.Typer) -> None:
    """Adds the commands to the command line."""
    main.add_typer(app, name="data")
