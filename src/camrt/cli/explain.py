"""The command line: `camrt explain`, `camrt inspect`, `camrt methods`.

Nothing heavy is imported here but inside the commands, so that `camrt --help` is quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

import camrt
from camrt.cli.arguments import (
    engine_preprocessing,
    model_and_images,
    parse_map_size,
    parse_size,
    parse_target,
    read_labels,
    read_preprocessing,
)
from camrt.cli.first_steps import print_next_steps, show_picture
from camrt.cli.groups import HELP_OPTIONS
from camrt.cli.model_options import ModelOptions, with_model_options
from camrt.cli.output import make_console, report_errors
from camrt.cli.ray_options import Actors, CpusPerActor, GpusPerActor, RayAddress, make_cluster
from camrt.cli.shared_options import (
    BackendName,
    Device,
    Labels,
    MethodOptions,
    Plans,
    Precision,
    PreprocessingOption,
    Size,
    Threads,
    complete_method,
    split_list,
)
from camrt.default import model_path, scene_path
from camrt.engine.option_text import parse_options, split_method
from camrt.errors import InputError, TargetError

if TYPE_CHECKING:
    from camrt.engine.engine import Engine
    from camrt.engine.fusion import Fusion
    from camrt.engine.images.style import StyleOptions
    from camrt.engine.runs.job import PictureFormat

__all__ = ["app"]

DEMO_METHODS = {False: "pixab", True: "pixab,ablation"}  # without a model and images, two are compared
DEMO_CLASSES = 3

app = typer.Typer(
    name="camrt",
    help="Where did the classifier look? Class activation maps of exported image classifiers. "
    "Begin with camrt explain.",
    no_args_is_help=True,
    context_settings=HELP_OPTIONS,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"camrt {camrt.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Options before any command."""


@app.command()
@with_model_options
def explain(
    model: Annotated[
        str | None,
        typer.Argument(help="An ONNX classifier. Left out: the embedded one, default."),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="Images, folders, patterns, lists of paths (.txt, .csv, .parquet), tar archives, addresses.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            show_default="pixab",
            help="See camrt methods; with options, as in gradcam:contrast=7. Several, as in "
            "gradcam,pixab,score, are compared on a sheet.",
            autocompletion=complete_method,
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="Class to explain: index or name; repeatable."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", "-k", min=1, help="Explain the most probable classes instead.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("camrt-out"),
    on: Annotated[
        str,
        typer.Option(help="Draw on the original images, whole, or on the view that the model has of them."),
    ] = "original",
    picture: Annotated[str, typer.Option("--format", help="Of pictures: png, jpeg or webp.")] = "png",
    no_overlays: Annotated[bool, typer.Option("--no-overlays", help="Draw no pictures.")] = False,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Target tensor, see camrt inspect; repeatable: the maps are then fused."),
    ] = None,
    fuse: Annotated[
        str, typer.Option(help="How the maps of several layers become one: mean, max or product.")
    ] = "mean",
    preprocessing: PreprocessingOption = None,
    labels: Labels = None,
    colormap: Annotated[
        str | None, typer.Option(help="ember, or one of matplotlib's, such as turbo.", show_default="ember")
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="How maps are drawn: blend, mask or contour.", show_default="blend")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Draw only what is at least so salient, from 0 to 1.")
    ] = None,
    write: Annotated[
        str | None,
        typer.Option(
            show_default="overlays,arrays,table",
            help="What is written, separated by commas: overlays (pictures), arrays (NumPy), table "
            "(results.csv), maps (rows with maps, Parquet).",
        ),
    ] = None,
    map_size: Annotated[
        str, typer.Option(help="Of the maps: image, map (the activation's own grid) or HxW.")
    ] = "image",
    column: Annotated[
        str | None, typer.Option(help="The column of paths in .csv and .parquet lists.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images explained at a time.")] = 32,
    block_size: Annotated[
        int,
        typer.Option(
            min=1, help="Images a file of maps or arrays; a run that is killed loses less than one."
        ),
    ] = 256,
    decode_threads: Annotated[
        int | None, typer.Option(min=1, help="Threads that read images; as many as processors.")
    ] = None,
    jpeg_scaling: Annotated[
        bool,
        typer.Option(
            "--jpeg-scaling",
            help="Decode JPEGs far larger than the model's input at a part of their size: quicker, and the "
            "model sees slightly other pixels.",
        ),
    ] = False,
    size: Size = None,
    threads: Threads = None,
    device: Device = "cpu",
    backend: BackendName = None,
    plans: Plans = None,
    precision: Precision = None,
    option: MethodOptions = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in the folder; what is done is not done again."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in the folder: its files alone are removed.")
    ] = False,
    ray: RayAddress = None,
    actors: Actors = None,
    cpus_per_actor: CpusPerActor = None,
    gpus_per_actor: GpusPerActor = 0.0,
    show: Annotated[
        bool, typer.Option("--show", help="Open the first picture, where there is a desktop.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but what failed.")] = False,
    *,
    model_options: ModelOptions,
) -> None:
    """Explain images, and write an overlay for each and the maps as arrays or tables.

    Without a model, the embedded classifier explains; without images too, a bundled photograph. A run that
    was stopped goes on with --resume; a folder that holds results is not written into otherwise.
    Exit code: 0, or 1 when images had to be skipped, or 2 when the model or a request is wrong.
    """
    with report_errors(resumes=True, replaces=overwrite):
        from camrt.cli.explain_run import explain_sources
        from camrt.engine.load import load
        from camrt.engine.methods import make_method
        from camrt.engine.run_folder import holds_run
        from camrt.engine.runs.decoding import Decoding
        from camrt.engine.runs.job import ExplainJob, parse_results
        from camrt.engine.runs.stream import Question

        asked = split_list(DEMO_METHODS[model is None] if method is None else method)
        if not asked:
            raise InputError(f"--method {method!r} names none; camrt methods lists them")
        first, *others = map(split_method, asked)
        written = write or ("overlays,table" if others else "overlays,arrays,table")
        results = parse_results(drop_overlays(written) if no_overlays else written)
        if on not in ("original", "view"):
            raise InputError(f"--on {on}: draw on the original images, or on the view that the model has")
        cluster = make_cluster(ray, actors, cpus_per_actor, gpus_per_actor, quiet=quiet)
        model_file, sources = (
            (None, [str(scene_path())]) if model is None else model_and_images(model, images or [])
        )
        if model is None and not target and top_k is None:
            top_k = DEMO_CLASSES
        if target and top_k is not None:
            raise InputError("give --target or --top-k, not both")
        hw = parse_size(size)
        if others and option:
            raise InputError("-O is of one method: of several, as in -m gradcam:contrast=7,pixab")
        options = parse_options([*first[1:], *(option or [])])
        engine = load(
            model_path() if model_file is None else model_file,
            target=layer or None,
            batch_size=batch_size,
            threads=threads,
            device=device,
            backend=backend,
            plans=plans,
            precision=precision,
            labels=read_labels(labels),
            preprocessing=read_preprocessing(preprocessing, hw),
            **model_options,
        )
        classes = list(dict.fromkeys(parse_target(text, engine) for text in target or []))
        if (top_k or 1) > engine.num_classes:
            raise TargetError(f"--top-k {top_k}: the model has {engine.num_classes} classes")
        question = Question(
            engine=engine,
            method=first[0],
            options=options,
            others=tuple(make_method(name, parse_options(own)) for name, *own in others),
            targets=(classes if len(classes) > 1 else classes[0]) if classes else None,
            top_k=top_k if (top_k or 1) > 1 else None,
            size=parse_map_size(map_size),
            fuse=cast("Fusion", fuse),
        )
        job = ExplainJob(
            question=question,
            decoding=Decoding.of(engine_preprocessing(engine, hw), decode_threads, jpeg_scaling=jpeg_scaling),
            batch_size=batch_size,
            block_size=block_size,
            out=out,
            results=results,
            original=on == "original",
            picture=cast("PictureFormat", picture),
            style=cast(
                "StyleOptions",
                {
                    name: value
                    for name, value in (("colormap", colormap), ("mode", mode), ("threshold", threshold))
                    if value is not None
                },
            ),
            settings=model_options | {"precision": precision},
        )
        if model is None and not resume:
            overwrite = overwrite or holds_run(out, "explanation", job.identity())
        if model_file is None and not quiet:
            print_embedded(engine)
        outcome = explain_sources(
            job, sources, column=column, resume=resume, overwrite=overwrite, quiet=quiet, cluster=cluster
        )
        if show:
            show_picture(outcome.picture)
        if model is None and not quiet:
            print_next_steps(outcome.picture)
    if outcome.skipped:
        raise typer.Exit(1)


def drop_overlays(write: str) -> str:
    """What --write asks for, without pictures."""
    return ",".join(kind for kind in write.split(",") if kind.strip() != "overlays")


def print_embedded(engine: Engine) -> None:
    """Tells that no model was named, and which one explains."""
    names = ", ".join(engine.labels[:5]) if engine.labels else ""
    make_console(stderr=True).print(
        f"no model named: the embedded classifier explains ({engine.num_classes} classes: {names}, …); "
        "with your own: camrt explain MODEL.onnx IMAGES...",
        markup=False,
        soft_wrap=True,
    )
