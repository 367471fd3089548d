"""The command `camrt evaluate axioms`. What is heavy is imported inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from camrt.cli.arguments import draw_images, engine_preprocessing, parse_size, read_preprocessing
from camrt.cli.model_options import ModelOptions, with_model_options
from camrt.cli.output import add_row, make_console, report_errors
from camrt.cli.shared_options import (
    BatchSize,
    Limit,
    MethodOptions,
    Model,
    Overwrite,
    PreprocessingOption,
    Resume,
    Seed,
    Size,
    Threads,
)
from camrt.default import resolve_model_path
from camrt.engine.option_text import parse_options
from camrt.errors import InputError

__all__ = ["axioms"]


@with_model_options
def axioms(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Images and folders of images.")],
    method: Annotated[
        list[str] | None, typer.Option("--method", "-m", help="See camrt methods; repeatable.")
    ] = None,
    preprocessing: PreprocessingOption = None,
    size: Size = None,
    limit: Limit = None,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    threads: Threads = None,
    option: MethodOptions = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for results.json and table.md; else they are printed alone."
        ),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    *,
    model_options: ModelOptions,
) -> None:
    """Check the axioms of attributions: invariance, sensitivity and completeness.

    Without a method, "calm" for a CALM model and "cam" for any other.
    """
    from rich.table import Table

    with report_errors(resumes=out is not None, replaces=overwrite):
        import numpy as np

        import camrt
        from camrt.engine.images.read import read_image
        from camrt.engine.methods import make_method
        from camrt.evaluation.metrics.axioms_run import COLUMNS, axiom_cells, axioms_of_methods

        if out is None and (resume or overwrite):
            raise InputError("--resume and --overwrite are about a folder of results: name it by --out")
        path = resolve_model_path(model)
        sides = parse_size(size)
        load_options = model_options | {"batch_size": batch_size, "threads": threads}
        engine = camrt.load(path, preprocessing=read_preprocessing(preprocessing, sides), **load_options)
        steps = engine_preprocessing(engine, sides)
        arrays = [steps.array(steps.view(read_image(found))) for found in draw_images(images, limit, seed)]
        if not arrays:
            raise InputError("no images were found")
        batch = np.stack(arrays)  # prepared once for every method and every file with a constant
        options = parse_options(option or [])
        names = method or ["calm" if engine.has_joint else "cam"]
        found = axioms_of_methods(
            path,
            batch,
            [make_method(name, options) for name in names],
            preprocessing=steps,
            load_options=load_options,
            out=out,
            resume=resume,
            overwrite=overwrite,
        )
        table = Table("method", *COLUMNS, title=f"Axioms on {len(batch)} images")
        for name, result in zip(names, found, strict=True):
            add_row(table, make_method(name, options).name, *axiom_cells(result))
        make_console().print(table)
