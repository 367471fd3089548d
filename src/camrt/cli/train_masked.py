"""The command `camrt train masked-vgg`. What is heavy is imported inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from camrt.cli.output import make_console, report_errors, strip_control
from camrt.cli.progress import progress_bar
from camrt.engine.run_folder import check_unused
from camrt.training.libraries import training_imports

__all__ = ["masked_vgg"]


def masked_vgg(
    data: Annotated[Path, typer.Option(help="Class folders, or train/ and val/ with class folders each.")],
    out: Annotated[Path, typer.Option(help="Folder for the run, model.onnx in the end.")],
    network: Annotated[str, typer.Option(help="small, for 64×64; or vgg16, the paper's.")] = "small",
    unmasked: Annotated[bool, typer.Option("--unmasked", help="Let the network see all rows.")] = False,
    kept_rows: Annotated[
        int | None, typer.Option(help="Rows of the last map that are seen; else 3 of 8, or 5 of 14.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="How many times each image is shown.")] = 90,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 256,
    lr: Annotated[float | None, typer.Option(help="Learning rate; else 0.03 · batch size / 256.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order, views and dropout.")] = 3,
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = 2,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    mixed: Annotated[bool, typer.Option("--mixed", help="Compute in bfloat16 where it is safe.")] = False,
    checkpoint_steps: Annotated[
        int, typer.Option(help="Steps between checkpoints, beside that after each epoch; 0 for none.")
    ] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in the folder: its files alone are removed.")
    ] = False,
) -> None:
    """Train a VGG that cannot see the lower part of its images, as See through Walls does, and export it.

    A run that was cut off goes on with --resume and ends as if it had not been.
    """
    with report_errors(resumes=True, replaces=overwrite):
        with training_imports():
            from camrt.training.masked_runs import MODEL, MaskedRunConfig, train_masked
            from camrt.training.masked_training import MaskedTrainingSettings
            from camrt.training.splits import split_folder

        given: dict[str, Any] = {
            "epochs": epochs,
            "batch_size": batch_size,
            "lr": lr,
            "seed": seed,
            "workers": workers,
            "device": device,
            "mixed": mixed,
            "checkpoint_steps": checkpoint_steps,
        }
        known: Any = network  # MaskedRunConfig refuses what it does not know
        asked = MaskedRunConfig(
            network=known, kept_rows=kept_rows, masked=not unmasked, settings=MaskedTrainingSettings(**given)
        )
        check_unused(out, resume=resume, overwrite=overwrite)
        images, held_out = split_folder(data, 0.1, seed)
        model = asked.build(len(images.labels))
        screen = make_console(stderr=True)
        screen.print(
            f"{len(images)} images of {len(images.labels)} classes to train on, {len(held_out)} to "
            f"measure on; {model.kept_rows} rows of the map are seen, the last {model.dead_rows} of "
            f"{model.size} rows of an image are not",
            soft_wrap=True,
        )
        with progress_bar("epochs", total=epochs, on=screen) as show:
            figures = train_masked(
                asked,
                model,
                images,
                held_out,
                out,
                resume=resume,
                overwrite=overwrite,
                on_epoch=lambda epoch, loss: screen.print(f"epoch {epoch + 1}: loss {loss:.4f}"),
                on_step=show,
            )
        make_console().print(
            strip_control(
                f"top-1 {100 * figures['top1']:.1f} %, top-5 {100 * figures['top5']:.1f} %; the network in "
                f"{out / MODEL}"
            ),
            soft_wrap=True,
            markup=False,
        )
