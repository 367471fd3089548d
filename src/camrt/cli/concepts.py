"""The command `camrt concepts`. What is heavy is imported inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from camrt.cli.arguments import draw_images
from camrt.cli.model_options import ModelOptions, with_model_options
from camrt.cli.output import add_row, make_console, report_errors, strip_control
from camrt.cli.shared_options import (
    BatchSize,
    Device,
    Labels,
    Limit,
    Model,
    Out,
    Overwrite,
    PreprocessingOption,
    Seed,
    Size,
    Threads,
    load_engine,
)

__all__ = ["add_command"]


@with_model_options
def concepts(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Images and folders of images.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many concepts.")] = 5,
    definition: Annotated[
        str, typer.Option(help="paper, or pytorch-grad-cam, which takes activations with negative values.")
    ] = "paper",
    layer: Annotated[str | None, typer.Option(help="Tensor or node to cut the model at.")] = None,
    out: Out = Path("camrt-concepts"),
    preprocessing: PreprocessingOption = None,
    labels: Labels = None,
    size: Size = None,
    limit: Limit = None,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    threads: Threads = None,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    *,
    model_options: ModelOptions,
) -> None:
    """Find the few patterns that images are made of to a model, where they lie, and what they mean to it.

    Factors the activations of all images together (deep feature factorisation), and writes a sheet of
    labelled overlays for each image and the arrays as concepts.npz.
    """
    from rich.table import Table

    with report_errors():
        from camrt.engine.concepts import Factorisation
        from camrt.engine.digests import combined_digest, file_digest
        from camrt.engine.identity import model_identity, package_versions
        from camrt.engine.run_folder import RunFolder, lock_folder

        paths = draw_images(images, limit, seed)
        engine = load_engine(
            model, preprocessing, size, labels, target=layer, batch_size=batch_size, threads=threads,
            device=device, **model_options,
        )  # fmt: skip
        identity = {
            "versions": package_versions(("numpy", "onnxruntime", "scikit-learn")),
            "model": model_identity(engine, engine.preprocessing),
            "images": combined_digest(file_digest(path) for path in paths),
            "settings": {"count": count, "definition": definition, "seed": seed},
        }
        with lock_folder(out):
            folder = RunFolder(out, "concepts", identity, resume=False, overwrite=overwrite)
            found = engine.concepts(
                list(map(str, paths)), count, definition=cast("Factorisation", definition), seed=seed
            )
            names = found.file_names(paths)
            folder.check(names)
            folder.claim(names)
            found.save(out, paths)
        table = Table("concept", "means", title=f"{len(found)} concepts of {len(paths)} images")
        for concept in range(len(found)):
            add_row(table, str(concept), found.label(concept, top=3))
        make_console().print(table)
        make_console().print(
            strip_control(
                f"{100 * found.error:.1f} % of the activations are in none of them; files in {out}"
            ),
            soft_wrap=True,
            markup=False,
        )


def add_command(main: typer.Typer) -> None:
    """Adds the command to the command line."""
    main.command()(concepts)
