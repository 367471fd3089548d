"""The command line: `camrt explain`, `camrt inspect`, `camrt methods`.

Nothing heavy is imported here but inside the commands, so that `camrt --help` is quick.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

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
from camrt.cli.model_options import ModelOptions, with_model_options
from camrt.cli.option_names import name_options
from camrt.cli.output import add_row, make_console, report_errors, strip_control
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
)
from camrt.default import resolve_model_path
from camrt.engine.option_text import parse_options, split_method
from camrt.errors import InputError, TargetError

if TYPE_CHECKING:
    from camrt.engine.engine import Engine
    from camrt.engine.fusion import Fusion

__all__ = ["app"]

app = typer.Typer(
    name="camrt",
    help="Where did the classifier look? Class activation maps of exported image classifiers.",
    no_args_is_help=True,
    add_completion=False,
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
        str | None, typer.Argument(help="An ONNX classifier, or the word default: the bundled one.")
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="Images, folders, patterns, lists of paths (.txt, .csv, .parquet), tar archives, addresses."
        ),
    ] = None,
    method: Annotated[
        str, typer.Option("--method", "-m", help="See camrt methods; with options, as in gradcam:contrast=7.")
    ] = "pixab",
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="Class to explain: index or name; repeatable."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", "-k", min=1, help="Explain the most probable classes instead.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("camrt-out"),
    original: Annotated[
        bool,
        typer.Option("--original", help="Draw on whole images, not on what the model saw of them."),
    ] = False,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Target tensor, see camrt inspect; repeatable: the maps are then fused."),
    ] = None,
    fuse: Annotated[
        str, typer.Option(help="How the maps of several layers become one: mean, max or product.")
    ] = "mean",
    preprocessing: PreprocessingOption = None,
    labels: Labels = None,
    write: Annotated[
        str,
        typer.Option(
            help="What is written: overlays (PNG), arrays (NumPy), maps (Parquet); separated by commas."
        ),
    ] = "overlays,arrays",
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
    ray: Annotated[
        str | None,
        typer.Option(
            help="Run on a Ray cluster: local (this machine), auto (the one that is there) or its address; "
            "with --write maps, into a folder that all its machines have."
        ),
    ] = None,
    actors: Annotated[int | None, typer.Option(min=1, help="With --ray: engines; as many as fit.")] = None,
    cpus_per_actor: Annotated[
        float | None, typer.Option(min=0.01, help="With --ray: processors each.")
    ] = None,
    gpus_per_actor: Annotated[float, typer.Option(min=0, help="With --ray: GPUs each.")] = 0.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but what failed.")] = False,
    *,
    model_options: ModelOptions,
) -> None:
    """Explain images, and write an overlay for each and the maps as arrays or tables.

    Without arguments, the bundled classifier explains its bundled scene. A run that was stopped goes on with
    --resume; a folder that holds results is not written into otherwise.
    Exit code: 0, or 1 when images had to be skipped, or 2 when the model or a request is wrong.
    """
    with report_errors(resumes=True):
        from camrt.cli.explain_run import explain_sources
        from camrt.engine.runs.decoding import Decoding
        from camrt.engine.runs.job import ExplainJob, parse_results
        from camrt.engine.runs.on_ray import Cluster
        from camrt.engine.runs.stream import Question

        results = parse_results(write)
        cluster = (
            None
            if ray is None
            else Cluster(address=ray, actors=actors, cpus=cpus_per_actor, gpus=gpus_per_actor, quiet=quiet)
        )
        model_file, sources = model_and_images(model, images)
        if target and top_k is not None:
            raise InputError("give --target or --top-k, not both")
        hw = parse_size(size)
        method, *own = split_method(method)
        options = parse_options([*own, *(option or [])])
        engine = _load(
            model_file,
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
            method=method,
            options=options,
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
            original=original,
            settings=model_options | {"precision": precision},
        )
        skipped = explain_sources(
            job, sources, column=column, resume=resume, overwrite=overwrite, quiet=quiet, cluster=cluster
        )
    if skipped:
        raise typer.Exit(1)


@app.command()
@with_model_options
def inspect(
    model: Annotated[str, typer.Argument(help="An ONNX classifier, or the word default.")],
    layer: Annotated[str | None, typer.Option(help="Target tensor.")] = None,
    verify: Annotated[
        bool,
        typer.Option(help="Compare every kind of answer with the model's own on noise, and list the errors."),
    ] = False,
    *,
    model_options: ModelOptions,
) -> None:
    """Show how a model is cut, and the tensors it could be cut at."""
    from rich.table import Table

    with report_errors():
        engine = _load(
            resolve_model_path(model), target=layer, verify="thorough" if verify else True, **model_options
        )
        console = make_console()
        console.print(name_options(strip_control(engine.describe())), markup=False)
        table = Table("target", "node", "operator", "K x h x w", "clean", "chosen", title="Targets")
        for found in engine.targets():
            shape = " x ".join("?" if side is None else str(side) for side in found.shape)
            yes_no = ["yes" if flag else "no" for flag in (found.clean, found.chosen)]
            add_row(table, found.name, found.node, found.operator, shape, *yes_no, bold=found.chosen)
        console.print(table)
        if verify:
            compared = Table(
                "question", "times", "largest error", "allowed", "agrees", title="Compared on noise"
            )
            for question in dict.fromkeys(one.question for one in engine.verification):
                same = [one for one in engine.verification if one.question == question]
                largest = max(one.error for one in same)
                result = "yes" if all(one.agrees for one in same) else "no"
                error = f"{largest:.1e}"
                if all(one.refused is not None for one in same):
                    error, result = "none", f"refused: {same[0].refused}"
                add_row(compared, question, str(len(same)), error, f"{same[0].allowed:g}", result)
            console.print(compared)


@app.command()
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

    from camrt.engine.methods import methods as registry

    with report_errors():
        if model is not None:
            engine = _load(resolve_model_path(model), target=layer, threads=threads, **model_options)
            _print_costs(engine, most_seconds)
            return
        table = Table("method", "summary", "options (-O KEY=VALUE)")
        kinds = registry()
        guided = [name for name, kind in kinds.items() if hasattr(kind, "map_class")]
        options = {name: dict.fromkeys(_option_names(kind)) for name, kind in kinds.items()}
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


def _print_costs(engine: Engine, most_seconds: float) -> None:
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


def _load(model: Path, **settings: Any) -> Engine:
    from camrt.engine.load import load

    return load(model, **settings)


def _option_names(method: Any) -> list[str]:
    """The options of a method's class, each with its default."""
    names = []
    for field in fields(method):
        default = field.default
        if default is MISSING and field.default_factory is not MISSING:
            default = field.default_factory()
        names.append(field.name if default is MISSING else f"{field.name}={default!r}")
    return names
