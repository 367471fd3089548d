"""The command `camrt export`. What is heavy is imported inside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camrt.cli.arguments import parse_size, read_labels, read_preprocessing
from camrt.cli.export_maps import write_maps
from camrt.cli.model_options import ModelOptions, with_model_options
from camrt.cli.output import make_console, print_left_out, report_errors, strip_control
from camrt.cli.shared_options import Labels, PreprocessingOption
from camrt.default import resolve_model_path
from camrt.errors import InputError

if TYPE_CHECKING:
    from camrt.engine.tensorrt_plans.build import Precision

__all__ = ["add_command"]

ONNX, MAPS = "onnx", "maps"
FLAVOURS = ("tensorrt", "tensorrt-rtx")


@with_model_options
def export(
    source: Annotated[
        str,
        typer.Argument(
            help="A run's folder, as camrt train leaves it; for maps, TensorRT, and Triton alone, an ONNX "
            "file or the word default."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where the ONNX file goes; for TensorRT the folder of plans."),
    ] = None,
    to: Annotated[str, typer.Option(help="onnx, tensorrt, or tensorrt-rtx.")] = ONNX,
    images: Annotated[
        list[Path] | None, typer.Option(help="Images to compare the file with torch on; repeatable.")
    ] = None,
    dynamic_size: Annotated[
        bool, typer.Option("--dynamic-size", help="Take images of any height and width.")
    ] = False,
    opset: Annotated[int | None, typer.Option(help="ONNX operator set.")] = None,
    precision: Annotated[str | None, typer.Option(help="What plans compute in: fp32, fp16 or bf16.")] = None,
    batches: Annotated[
        str | None, typer.Option(help="Least, usual and most rows of a plan's run, such as 1,8,32.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="HxW of the images, where the model leaves it open.")
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="Target tensor, as in camrt explain; repeatable.")
    ] = None,
    gradients: Annotated[
        bool | None,
        typer.Option("--gradients/--no-gradients", help="Build plans of gradients too; yes if not said."),
    ] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            help="Put maps into an ONNX file, by these methods: names with commas between them, or one with "
            "options, such as pixab:score=logit; repeatable.",
        ),
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(help="Classes that maps are of: one an image, several, or the predicted class."),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Raw maps too, beside those in [0, 1].")] = False,
    most_passes: Annotated[
        int | None,
        typer.Option(
            help="Passes through what follows the cut that a map may need at most; 1024 if not said."
        ),
    ] = None,
    preprocessing: PreprocessingOption = None,
    labels: Labels = None,
    triton_repository: Annotated[
        Path | None,
        typer.Option(
            help="Put the ONNX file into this model repository of NVIDIA Triton Inference Server: "
            "the one that is written, or SOURCE where none is."
        ),
    ] = None,
    triton_name: Annotated[
        str | None, typer.Option(help="The model's name on that server; the file's if not said.")
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(min=1, help="Most images that it runs at once; 32 if not said.")
    ] = None,
    *,
    model_options: ModelOptions,
) -> None:
    """Write a trained run as an ONNX file; put maps into such a file, or it on a server, or build its plans.

    An ONNX file is put in place once it gives torch's answers, on the images given, or on one that ships
    with camrt; with maps in it, once it gives the engine's, on noise. Plans are for this card and this
    TensorRT; camrt.load(..., plans=FOLDER) runs them.
    """
    with report_errors():
        if to not in (ONNX, *FLAVOURS):
            raise InputError(f"--to {to!r} must be one of {', '.join((ONNX, *FLAVOURS))}")
        model_options.pop("trusted", None)  # neither a run nor an ONNX file holds anything that could be run
        work = MAPS if maps else to
        of_model = {f"--{name.replace('_', '-')}": value for name, value in model_options.items()}
        given: list[tuple[tuple[str, ...], dict[str, Any]]] = [
            ((ONNX,), {"--images": images or None, "--dynamic-size": dynamic_size or None}),
            ((ONNX, MAPS), {"--opset": opset, "--triton-repository": triton_repository}),
            (
                (MAPS,),
                {
                    "--targets": targets,
                    "--raw": raw or None,
                    "--most-passes": most_passes,
                    "--preprocessing": preprocessing,
                    "--labels": labels,
                },
            ),
            ((MAPS, *FLAVOURS), {"--layer": layer or None, "--size": size, **of_model}),
            (FLAVOURS, {"--precision": precision, "--batches": batches, "--gradients": gradients}),
            ((ONNX,), {"--with": None if to == ONNX else maps}),
        ]
        strange = [
            name
            for works, options in given
            for name, value in options.items()
            if work not in works and value is not None
        ]
        if strange:
            asked = "--with" if maps and to == ONNX else f"--to {to}"
            raise InputError(f"{', '.join(strange)} mean{'s' * (len(strange) == 1)} nothing with {asked}")
        if out is None and (to != ONNX or triton_repository is None):
            raise InputError("--out says where the outcome goes, and is missing")
        if triton_repository is None and (triton_name, max_batch) != (None, None):
            raise InputError("--triton-name and --max-batch mean nothing without --triton-repository")
        if to == ONNX:
            if out is not None and maps:
                write_maps(
                    source,
                    out,
                    maps,
                    targets=targets,
                    raw=raw,
                    most_passes=most_passes,
                    opset=opset,
                    target=layer[0] if layer and len(layer) == 1 else layer or None,
                    preprocessing=read_preprocessing(preprocessing, parse_size(size)),
                    labels=read_labels(labels),
                    **model_options,
                )
            elif maps:
                raise InputError("--out says where the file with maps goes, and is missing")
            elif out is not None:
                write_onnx(Path(source), out, images or [], dynamic_size, opset)
            if triton_repository is not None:
                write_triton_model(
                    resolve_model_path(source) if out is None else out,
                    triton_repository,
                    triton_name,
                    max_batch,
                )
        elif out is not None:
            write_plans(
                source, out, to, precision, batches, size, layer, gradients is not False, model_options
            )


def write_onnx(run: Path, out: Path, images: list[Path], dynamic_size: bool, opset: int | None) -> None:
    """A run as an ONNX file."""
    import numpy as np

    from camrt.default import scene_path
    from camrt.engine.images.read import find_images, read_image
    from camrt.training.libraries import training_imports

    with training_imports():
        from camrt.training.runs import load_run
    from camrt.engine.torch_models.to_onnx import to_onnx

    classifier, description = load_run(run)
    paths = list(find_images(images, on_results=print_left_out)) if images else [scene_path()]
    views = [description.preprocessing.view(read_image(path)) for path in paths[:64]]
    if not views:
        raise InputError("no images were found to compare the file on")
    example = np.stack([description.preprocessing.array(view) for view in views])
    to_onnx(
        classifier,
        example,
        out,
        labels=description.labels,
        preprocessing=description.preprocessing,
        opset=opset,
        dynamic_size=dynamic_size,
        provenance=description.provenance,
    )
    make_console().print(
        f"{strip_control(str(out))}: {out.stat().st_size / 1e6:.1f} MB, {description.head} on "
        f"{description.backbone}, {len(description.labels)} classes; the same as torch on {len(views)} "
        f"image{'s' * (len(views) != 1)}",
        soft_wrap=True,
    )


def write_triton_model(file: Path, repository: Path, name: str | None, max_batch: int | None) -> None:
    """An ONNX file in a model repository of Triton Inference Server."""
    from camrt.engine.triton_repository import add_to_triton_repository

    settings: dict[str, Any] = {} if max_batch is None else {"max_batch": max_batch}
    version = add_to_triton_repository(file, repository, name=name, **settings)
    make_console().print(
        f"{strip_control(str(version.parent))}: version {version.name}; serve it with tritonserver "
        f"--model-repository {strip_control(str(repository))}",
        soft_wrap=True,
    )


def write_plans(
    model: str,
    out: Path,
    to: str,
    precision: str | None,
    batches: str | None,
    size: str | None,
    target: list[str] | None,
    gradients: bool,
    model_options: ModelOptions,
) -> None:
    """The TensorRT plans of a file."""
    from camrt.engine.plan_export import export_plans

    screen = make_console(stderr=True)
    chosen: Precision = precision or "fp32"  # type: ignore[assignment]  # checked where it is used
    found = export_plans(
        model,
        out,
        to=to,
        precision=chosen,
        batches=parse_batches(batches or "1,8,32"),
        size=parse_size(size),
        target=target[0] if target and len(target) == 1 else target,
        gradients=gradients,
        progress=lambda label: screen.print(f"building the {label}"),
        **model_options,
    )
    built, megabytes = found.folder.built_with, sum(size for _, size in found.plans) / 1e6
    make_console().print(
        f"{strip_control(str(out))}: {len(found.plans)} plans, {megabytes:.1f} MB, in "
        f"{built['precision']}, by {built['flavour']} {built['version']} for {built['card'] or 'any card'}",
        soft_wrap=True,
    )


def parse_batches(text: str) -> tuple[int, int, int]:
    """Three whole numbers."""
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise InputError(f"--batches must be three whole numbers such as 1,8,32, got {text!r}")
    first, second, third = (int(part) for part in parts)
    return first, second, third


def add_command(app: typer.Typer) -> None:
    """Adds the command to the command line."""
    app.command()(export)
