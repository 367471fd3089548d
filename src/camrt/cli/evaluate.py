"""The commands under `camrt evaluate`. What is heavy is imported inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from camrt.cli.arguments import draw_images
from camrt.cli.evaluate_axioms import axioms
from camrt.cli.evaluate_theory import check_theory_options, print_theory
from camrt.cli.evaluation_table import print_evaluation, print_plan
from camrt.cli.groups import DefaultCommandGroup
from camrt.cli.model_options import ModelOptions, with_model_options
from camrt.cli.output import (
    add_row,
    make_console,
    report_errors,
)
from camrt.cli.progress import progress_bar
from camrt.cli.ray_options import Actors, CpusPerActor, GpusPerActor, RayAddress, make_cluster
from camrt.cli.shared_options import (
    Annotations,
    BackendName,
    BatchSize,
    Device,
    Labels,
    Limit,
    Methods,
    Model,
    Out,
    Overwrite,
    Plans,
    Precision,
    PreprocessingOption,
    Resume,
    Seed,
    Size,
    Threads,
    load_engine,
    split_list,
)
from camrt.default import resolve_model_path
from camrt.errors import InputError

__all__ = ["add_commands"]

ON_IMAGES = "images"


class _Evaluate(DefaultCommandGroup):
    """`camrt evaluate MODEL FOLDER` is `camrt evaluate images MODEL FOLDER`."""

    default_command = ON_IMAGES


app = typer.Typer(
    help="Which explanation to trust, on your model and your images: camrt evaluate MODEL FOLDER.",
    no_args_is_help=True,
    cls=_Evaluate,
)


@app.callback()
def _main() -> None:
    """Options before any command."""


@app.command(ON_IMAGES)
@with_model_options
def on_images(
    model: Model,
    data: Annotated[Path, typer.Argument(help="Folder of images with their annotations.")],
    methods: Methods = "pixab,gradcam,ablation",
    metrics: Annotated[str, typer.Option(help="Separated by commas, or all.")] = "all",
    out: Out = Path("camrt-evaluation"),
    annotations: Annotations = None,
    kind: Annotated[
        str | None, typer.Option(help="folder, csv, coco, voc, wsol or masks, where it is not plain.")
    ] = None,
    preprocessing: PreprocessingOption = None,
    labels: Labels = None,
    size: Size = None,
    limit: Limit = None,
    step: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pixels a step of deletion and insertion; else a row of them. Each step is a run of the "
            "model: 10 pixels of 224×224 are 5018 runs for each of the two, an image and method.",
        ),
    ] = None,
    infidelity_squares: Annotated[
        int,
        typer.Option(min=1, help="Infidelity: squares of each image set to zero, a run of the model each."),
    ] = 100,
    sensitivity_draws: Annotated[
        int,
        typer.Option(
            min=1,
            help="Max-sensitivity: noisy copies of each image, each of which every method explains. It is "
            "measured where --metrics names it.",
        ),
    ] = 10,
    sensitivity_radius: Annotated[
        float, typer.Option(help="Max-sensitivity: the largest change of a value, as the model takes it.")
    ] = 0.02,
    base: Annotated[str, typer.Option(help="What remove-and-classify puts in: blur or zero.")] = "blur",
    pxap: Annotated[str, typer.Option(help="exact, or reference: the benchmark's bins.")] = "exact",
    examples: Annotated[int, typer.Option(min=0, help="Images in the report.")] = 8,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    threads: Threads = None,
    device: Device = "cpu",
    backend: BackendName = None,
    plans: Plans = None,
    precision: Precision = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    ray: RayAddress = None,
    actors: Actors = None,
    cpus_per_actor: CpusPerActor = None,
    gpus_per_actor: GpusPerActor = 0.0,
    *,
    model_options: ModelOptions,
) -> None:
    """Measure methods on annotated images: faithfulness, deletion, removal, localisation.

    Writes results.json, Parquet tables, report.html, table.md, .csv and .tex, and figures as PDF. A run that
    was stopped goes on with --resume.
    """
    with report_errors(resumes=True, replaces=overwrite):
        from camrt.evaluation.datasets import read_dataset
        from camrt.evaluation.suite import Settings, evaluate

        cluster = make_cluster(ray, actors, cpus_per_actor, gpus_per_actor, quiet=True)
        engine = load_engine(
            model, preprocessing, size, labels, batch_size=batch_size, threads=threads,
            device=device, backend=backend, plans=plans, precision=precision, **model_options,
        )  # fmt: skip
        found = read_dataset(
            data, annotations=annotations, kind=kind, labels=engine.labels, num_classes=engine.num_classes
        )
        settings: dict[str, Any] = {
            "step": step, "base": base, "pxap": pxap, "examples": examples, "seed": seed, "limit": limit,
            "infidelity_squares": infidelity_squares, "sensitivity_draws": sensitivity_draws,
            "sensitivity_radius": sensitivity_radius,
        }  # fmt: skip
        print_plan(split_list(methods), split_list(metrics), len(found.samples), Settings(**settings))
        with progress_bar("measuring images") as progress:
            evaluation = evaluate(
                engine,
                found,
                split_list(methods),
                split_list(metrics),
                settings=Settings(**settings),
                out=out,
                resume=resume,
                overwrite=overwrite,
                progress=progress,
                cluster=cluster,
            )
        print_evaluation(evaluation.results, out)


@app.command()
@with_model_options
def walls(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(help="An ONNX classifier, or the word default.")] = None,
    data: Annotated[Path | None, typer.Argument(help="Folder of images.")] = None,
    theory: Annotated[
        bool,
        typer.Option("--theory", help="Measure what the paper proves, on networks that are drawn: no MODEL."),
    ] = False,
    filters: Annotated[int, typer.Option(min=1, help="With --theory: V; the paper's figures: 256.")] = 64,
    side: Annotated[
        int, typer.Option(min=5, help="With --theory: of the image, 4n + 1; the paper's figures: 29.")
    ] = 9,
    draws: Annotated[
        int, typer.Option(min=2, help="With --theory: networks that expectations are taken over.")
    ] = 20_000,
    image: Annotated[
        Path | None, typer.Option(help="With --theory: an image, such as a digit; else drawn numbers.")
    ] = None,
    methods: Methods = "gradcam,gradcam++,xgradcam,hirescam,score,ablation,eigen,layercam",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the results: camrt-walls, or camrt-walls-theory."),
    ] = None,
    dead_rows: Annotated[
        int | None, typer.Option(min=1, help="Take the lowest rows for dead, and look no further.")
    ] = None,
    preprocessing: PreprocessingOption = None,
    labels: Labels = None,
    size: Size = None,
    limit: Limit = None,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    threads: Threads = None,
    device: Device = "cpu",
    backend: BackendName = None,
    plans: Plans = None,
    precision: Precision = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    ray: RayAddress = None,
    actors: Actors = None,
    cpus_per_actor: CpusPerActor = None,
    gpus_per_actor: GpusPerActor = 0.0,
    *,
    model_options: ModelOptions,
) -> None:
    """Find the pixels that cannot influence a model, and μ: a map's norm there, relative to its whole norm.

    With --theory, Proposition 2, Theorem 3 and the dead rows of the masked VGG-16, each value beside what the
    paper says of it.
    """
    with report_errors(resumes=True, replaces=overwrite):
        check_theory_options(context, theory=theory)
        if theory:
            asked = {"filters": filters, "side": side, "draws": draws, "seed": seed, "image": image}
            print_theory(asked, out or Path("camrt-walls-theory"), resume=resume, overwrite=overwrite)
            return
        if model is None or data is None:
            raise InputError("say which MODEL, and a folder of images; or --theory, which needs neither")
        from camrt.evaluation.datasets import read_dataset
        from camrt.evaluation.dead_zone.detection import find_dead_zone
        from camrt.evaluation.metrics.dead_zone_share import lower_rows_mask
        from camrt.evaluation.suite import Settings, evaluate

        cluster = make_cluster(ray, actors, cpus_per_actor, gpus_per_actor, quiet=True)
        engine = load_engine(
            model, preprocessing, size, labels, batch_size=batch_size, threads=threads,
            device=device, backend=backend, plans=plans, precision=precision, **model_options,
        )  # fmt: skip
        assert engine.preprocessing is not None  # _loaded sees to it
        sides = engine.preprocessing.size
        if dead_rows is not None:
            dead = lower_rows_mask(sides, dead_rows)
            make_console().print(
                f"dead zone: the lowest {dead_rows} of {sides[0]} rows, as given", soft_wrap=True
            )
        else:
            zone = find_dead_zone(engine, size=sides, seed=seed)
            dead = zone.pixels
            make_console().print(
                f"dead zone: {100 * zone.share:.1f} % of the image, its lowest {zone.lowest_rows} of "
                f"{sides[0]} rows whole; found by {zone.method}, confirmed with noise",
                soft_wrap=True,
            )
            if not dead.any():
                make_console().print("every pixel can influence the model: there is nothing to measure μ on")
                return
        found = read_dataset(data, labels=engine.labels, num_classes=engine.num_classes)
        out = out or Path("camrt-walls")
        with progress_bar("measuring images") as progress:
            evaluation = evaluate(
                engine,
                found,
                split_list(methods),
                ["mu"],
                settings=Settings(seed=seed, limit=limit, postprocess="library"),
                dead=dead,
                out=out,
                resume=resume,
                overwrite=overwrite,
                progress=progress,
                cluster=cluster,
            )
        print_evaluation(evaluation.results, out)
        make_console().print(
            f"μ of a map that is the same everywhere: {float(dead.mean()) ** 0.5:.3f}, the root of the "
            "zone's share"
        )


@app.command()
@with_model_options
def sanity(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Images and folders of images.")],
    methods: Methods = "pixab,gradcam,guided",
    stages: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many stages, evenly over the layers; else 6, or one for each of fewer."
        ),
    ] = None,
    draw: Annotated[str, typer.Option(help="How weights are drawn anew: normal, he or shuffle.")] = "normal",
    preprocessing: PreprocessingOption = None,
    size: Size = None,
    limit: Limit = 16,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    threads: Threads = None,
    device: Device = "cpu",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for results.json; else they are printed alone.")
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    *,
    model_options: ModelOptions,
) -> None:
    """Draw a model's layers anew, from the last on: maps that stay as they were do not depend on them."""
    from typing import cast

    from rich.table import Table

    with report_errors(resumes=out is not None, replaces=overwrite):
        from camrt.evaluation.metrics.randomisation import cascading_randomisation
        from camrt.evaluation.metrics.weight_layers import Draw, find_weight_layers
        from camrt.evaluation.suite.settings import parse_methods
        from camrt.export.io.model_file import read_model

        if out is None and (resume or overwrite):
            raise InputError("--resume and --overwrite are about a folder of results: name it by --out")
        load_options = model_options | {"threads": threads, "device": device}
        engine = load_engine(model, preprocessing, size, None, **load_options)
        built = parse_methods(split_list(methods))
        file = resolve_model_path(model)
        layers = find_weight_layers(read_model(file).model)
        found = cascading_randomisation(
            file,
            [str(path) for path in draw_images(images, limit, seed)],
            list(built.values()),
            stages=stages or min(6, len(layers)) or None,
            target=engine.target.name,
            seed=seed,
            draw=cast("Draw", draw),
            preprocessing=engine.preprocessing,
            batch_size=batch_size,
            load_options=load_options,
            out=out,
            resume=resume,
            overwrite=overwrite,
        )
        table = Table("layers drawn anew", "down to", *(f"{name}: rank correlation, SSIM" for name in built))
        for place, count in enumerate(found.stages):
            cells = [
                f"{found.mean_spearman[place, m]:.2f}, {found.mean_ssim[place, m]:.2f}"
                + (f" ({left_out} undefined)" if (left_out := found.undefined_spearman[place, m]) else "")
                for m in range(len(built))
            ]
            add_row(table, f"{count} of {len(found.layers)}", found.layers[count - 1], *cells)
        make_console().print(table)
        make_console().print(f"means over {len(found.targets)} images, each at the class it was predicted as")


def add_commands(main: typer.Typer) -> None:
    """Adds the commands to the command line."""
    app.command()(axioms)
    main.add_typer(app, name="evaluate")
