"""The commands under `camrt evaluate`. What is heavy is imported inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from camrt.engine.arguments import model_path, parse_options, parse_size, preprocessing_of, read_preprocessing
from camrt.engine.consoles import add_row, clear_errors, console
from camrt.errors import InputError

__all__ = ["add_commands"]

app = typer.Typer(
    help="Which explanation can be trusted, on your model and your pictures?", no_args_is_help=True
)


@app.callback()
def _main() -> None:
    """Options before any command."""


@app.command()
def axioms(
    model: Annotated[str, typer.Argument(help="An ONNX classifier, or the word default.")],
    images: Annotated[list[Path], typer.Argument(help="Pictures and folders of pictures.")],
    method: Annotated[
        list[str] | None, typer.Option("--method", "-m", help="See camrt methods; repeatable.")
    ] = None,
    preprocessing: Annotated[
        str | None, typer.Option(help="imagenet, imagenet-squash, tf, unit, or a JSON file.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="HxW to bring pictures to, where the model leaves it open.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-O", help="The method's KEY=VALUE; repeatable.")
    ] = None,
) -> None:
    """Check the axioms of attributions: invariance, sensitivity and completeness.

    Without a method, "calm" for a CALM model and "cam" for any other.
    """
    from rich.table import Table

    with clear_errors():
        import numpy as np

        import camrt
        from camrt.engine.pictures import find_pictures, read_picture
        from camrt.evaluation.axioms import axioms as measured

        path = model_path(model)
        sides = parse_size(size)
        engine = camrt.load(path, preprocessing=read_preprocessing(preprocessing, sides))
        steps = preprocessing_of(engine, sides)
        arrays = [steps.array(steps.view(read_picture(found))) for found in find_pictures(images)]
        if not arrays:
            raise InputError("no pictures were found")
        pictures = np.stack(arrays)  # prepared once for every method and every file with a constant
        options = parse_options(option or [])
        columns = ("changes under f + C", "silent cells that matter", "|sum - p(y|x)|")
        axes = ("invariant", "sensitive", "complete")
        table = Table("method", *columns, *axes, title=f"Axioms on {len(pictures)} pictures")
        for name in method or ["calm" if engine.head.has_joint else "cam"]:
            found = measured(path, pictures, name, preprocessing=steps, **options)
            held = ["yes" if flag else "no" for flag in (found.invariant, found.sensitive, found.complete)]
            figures = (
                f"{found.invariance:.3g}",
                f"{100 * found.silent:.3g} %",
                f"{found.incompleteness:.3g}",
            )
            add_row(table, found.method, *figures, *held)
        console().print(table)


def add_commands(main: typer.Typer) -> None:
    """Adds the commands to the command line."""
    main.add_typer(app, name="evaluate")
