"""The commands under `camrt train`. What is heavy is imported inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from camrt.cli.groups import DefaultCommandGroup
from camrt.cli.output import make_console, report_errors, strip_control
from camrt.cli.progress import progress_bar
from camrt.cli.train_masked import masked_vgg
from camrt.cli.train_search import LR_RANGE, UNANNOTATED_MEASURES, check_search_options, run_search
from camrt.errors import InputError
from camrt.training.libraries import training_imports

__all__ = ["add_commands"]

CLASSIFIER = "classifier"


class _Train(DefaultCommandGroup):
    """`camrt train --data FOLDER` is `camrt train classifier --data FOLDER`."""

    default_command = CLASSIFIER


train_app = typer.Typer(
    help="Train a CAM or CALM classifier on images: camrt train --data FOLDER --out RUN.",
    no_args_is_help=True,
    cls=_Train,
)


@train_app.callback()
def _main() -> None:
    """Options before any command."""


@train_app.command(CLASSIFIER)
def train(
    data: Annotated[
        Path, typer.Option(help="Images: a folder for each class, or train/ and val/ with such folders.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the run.")],
    head: Annotated[str | None, typer.Option(help="cam, calm-ml or calm-em.")] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="small, tiny; resnet50, vgg16, vgg16_bn, inception_v3; torchvision:NAME, timm:NAME."
        ),
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="none, imagenet, a .safetensors file, or another run's folder.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="paper-cub, paper-openimages, paper-imagenet, the same with wsol-, or scratch."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings as YAML; options given here come first.")
    ] = None,
    lists: Annotated[
        Path | None, typer.Option(help="The WSOL benchmark's metadata of the data set, such as metadata/CUB.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="How many times each image is shown.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step, of one process.")] = None,
    lr: Annotated[float | None, typer.Option(help="Base learning rate.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the network's input.")] = None,
    map_stride: Annotated[int | None, typer.Option(help="Pixels that a cell of the map stands for.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order, views and dropout.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting, KEY=VALUE; repeatable.")
    ] = None,
    search: Annotated[
        int | None,
        typer.Option(min=1, help="Try so many learning rates, and keep the best: CALM's search has 30."),
    ] = None,
    lr_range: Annotated[str, typer.Option(help="LOW,HIGH that --search draws between.")] = LR_RANGE,
    search_by: Annotated[
        str | None,
        typer.Option(
            help="maxboxaccv2, pxap, val_top1 or val_loss; else the first that there are boxes or masks for."
        ),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="Boxes or masks of the validation images for --search, as camrt evaluate reads them."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in the folder: its files alone are removed.")
    ] = False,
    accelerator: Annotated[str, typer.Option(help="cpu, gpu or auto.")] = "auto",
    devices: Annotated[str, typer.Option(help="How many devices, or auto.")] = "auto",
    strategy: Annotated[str, typer.Option(help="Lightning's strategy, such as ddp.")] = "auto",
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also log for TensorBoard.")] = False,
) -> None:
    """Train a CAM or CALM classifier on images, or one for each of many learning rates.

    A run that was cut off goes on with --resume and ends as if it had not been.
    """
    with report_errors(resumes=True, replaces=overwrite):
        with training_imports():
            from camrt.cli.epoch_lines import EpochLines
            from camrt.training.recipe import Recipe
            from camrt.training.run_preparation import check_run_folder, is_first_process
            from camrt.training.runs import RECIPE, WEIGHTS
            from camrt.training.splits import read_wsol_split, split_folder
            from camrt.training.trainer import fit

        given = {
            "head": head,
            "backbone": backbone,
            "pretrained": pretrained,
            "recipe": recipe,
            "epochs": epochs,
            "batch_size": batch_size,
            "lr": lr,
            "size": size,
            "map_stride": map_stride,
            "seed": seed,
        }
        changes = {
            **parse_settings(setting or []),
            **{name: value for name, value in given.items() if value is not None},
        }
        check_search_options(
            search,
            {
                "--lr-range": lr_range != LR_RANGE,
                "--search-by": search_by is not None,
                "--annotations": annotations is not None,
            },
            {
                "--lr": "lr" in changes,
                "--devices": devices not in ("auto", "1"),
                "--strategy": strategy != "auto",
            },
        )
        if config is None and resume and (out / RECIPE).exists():
            config = out / RECIPE
        if config is None:
            changes.setdefault("backbone", "small")
            settings = Recipe.from_settings(add_default_canvas(changes))
        else:
            settings = Recipe.read(config, add_default_canvas(changes))
        if search is None and is_first_process():
            check_run_folder(out, resume=resume, overwrite=overwrite)
        if lists is None:
            images, held = split_folder(data, settings.validation_share, settings.seed)
        else:
            images = read_wsol_split(lists, data, "train")
            held = read_wsol_split(lists, data, "val", images.labels)
        screen, steps = make_console(stderr=True), len(images) // settings.batch_size
        screen.print(
            f"{len(images)} images of {len(images.labels)} classes to train on, {len(held)} to "
            f"validate on; {settings.head} on {settings.backbone}, "
            f"{settings.epochs} epoch{'s' * (settings.epochs != 1)} of {steps} step{'s' * (steps != 1)}",
            soft_wrap=True,
        )
        shared: dict[str, Any] = {
            "resume": resume,
            "overwrite": overwrite,
            "accelerator": accelerator,
            "progress": screen.is_terminal,
            "tensorboard": tensorboard,
            "data_name": data.resolve().name,
        }
        if search is not None:
            if annotations is None and lists is not None and search_by not in UNANNOTATED_MEASURES:
                annotations = lists / "val"
            run_search(
                (search, lr_range, search_by), settings, (images, held), out, data, annotations, shared
            )
            return
        with progress_bar("epochs", total=settings.epochs, on=screen, hidden=not is_first_process()) as show:
            found = fit(
                settings,
                images,
                held,
                out,
                devices=int(devices) if devices.isdecimal() else devices,
                strategy=strategy,
                callbacks=(EpochLines(screen, show),),
                **shared | {"progress": False},
            )
        if not is_first_process():
            return
        figures = found.provenance
        last = "the last" if settings.keep == "last" else "the best"
        make_console().print(
            f"epoch {figures['epochs_trained']} was {last}: validation loss {figures['val_loss']:.4f}, "
            f"top-1 {100 * figures['val_top1']:.1f} %; weights in {strip_control(str(out / WEIGHTS))}",
            soft_wrap=True,
        )


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """Settings KEY=VALUE, their values read as YAML."""
    import yaml

    found: dict[str, Any] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text!r} must be KEY=VALUE")
        try:
            found[name.strip()] = yaml.safe_load(value)
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            raise InputError(f"--set {text!r}: {error}") from error
    return found


def add_default_canvas(changes: dict[str, Any]) -> dict[str, Any]:
    """The same, with a canvas as the paper's, 256 for 224, in proportion, where only the size is given."""
    if "size" in changes and "canvas" not in changes and isinstance(changes["size"], int):
        return {**changes, "canvas": -(-changes["size"] * 8 // 7)}
    return changes


train_app.command("masked-vgg")(masked_vgg)


def add_commands(main: typer.Typer) -> None:
    """Adds the commands to the command line."""
    main.add_typer(train_app, name="train")
