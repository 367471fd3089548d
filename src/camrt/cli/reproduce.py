"""The command `camrt reproduce`. What is heavy is imported inside it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camrt.cli.model_options import ModelOptions, with_model_options
from camrt.cli.output import add_row, make_console, report_errors, strip_control
from camrt.cli.progress import progress_bar
from camrt.cli.shared_options import (
    Annotations,
    BatchSize,
    Labels,
    PreprocessingOption,
    Seed,
    Size,
    Threads,
    load_engine,
    split_list,
)
from camrt.errors import InputError

if TYPE_CHECKING:
    from camrt.evaluation.papers.reproduced_table import ReproducedTable

__all__ = ["add_command"]


@with_model_options
def reproduce(
    tables: Annotated[
        list[str] | None,
        typer.Argument(help="Names of tables, or calm or pixab for all of a paper's; without any, a list."),
    ] = None,
    list_: Annotated[
        bool,
        typer.Option(
            "--list", help="Show what tables need, how long they take, and published figures beside ours."
        ),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="An ONNX classifier, the word default, or weights of torchvision's VGG (.pth)."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of images with their annotations, or CUB-200-2011's.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the results, a folder in it for each table.")
    ] = Path("camrt-reproduce"),
    methods: Annotated[
        str | None,
        typer.Option(help="Rows, separated by commas, or other methods; not for calm-4, pixab-7 to -10."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Measure this many images (calm-1: pairs a group).")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Adversarial images of each kind.")] = 500,
    step: Annotated[
        int | None, typer.Option(min=1, help="Pixels a step of deletion and insertion; a row of them.")
    ] = None,
    readings: Annotated[
        str, typer.Option(help="Of Pixab-CAM's denominators, in pixab-7 to -10.")
    ] = "N1,N2,N3",
    assignments: Annotated[
        str, typer.Option(help="Of boxes to cells, in pixab-7 to -10.")
    ] = "coverage,same,anchor",
    each_patch: Annotated[
        bool, typer.Option(help="Explain every patch of an adversarial image, not one that is drawn.")
    ] = False,
    top_channels: Annotated[
        str, typer.Option(help="In pixab-1: fixed, COP's 100 channels, or scaled: as many as 100 of 2048.")
    ] = "fixed",
    superset: Annotated[
        str | None, typer.Option(help="Classes that +Y takes together: all, imagenet, imagenet-outermost.")
    ] = None,
    annotations: Annotations = None,
    preprocessing: PreprocessingOption = None,
    labels: Labels = None,
    size: Size = None,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    threads: Threads = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with runs in that folder.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace runs in that folder: their files alone are removed.")
    ] = False,
    *,
    model_options: ModelOptions,
) -> None:
    """Measure the published tables of CALM, See through Walls and Pixab-CAM on your model and images.

    Prints published and measured figures side by side, and writes table.md and results.json. With --list,
    shows what every table and figure needs, how long it takes, and what was measured of it before.
    """
    with report_errors(resumes=True, replaces=overwrite):
        from camrt.cli.reproduce_listing import print_entry, print_overview
        from camrt.evaluation.papers.catalogue import CATALOGUE, find_entries, find_tasks
        from camrt.evaluation.papers.checkpoints import SUFFIXES, write_checkpoint_as_onnx
        from camrt.evaluation.papers.options import Options
        from camrt.evaluation.papers.reproduction import reproduce as measure
        from camrt.evaluation.papers.run_state import ReproductionRun

        if list_:
            shown = [entry for name in tables or () for entry in find_entries(name)]
            for entry in shown or CATALOGUE.values():
                print_entry(entry)
            return
        if not tables:
            print_overview()
            return
        names = [task.published.name for task in find_tasks(tables)]
        if model is None:
            raise InputError("say which model to measure on: --model FILE, or --model default")
        given: dict[str, Any] = {
            "methods": None if methods is None else tuple(split_list(methods)),
            "readings": tuple(split_list(readings)),
            "assignments": tuple(split_list(assignments)),
            "limit": limit, "seed": seed, "step": step, "count": count, "superset": superset,
            "top_channels": top_channels,
            "annotations": annotations, "resume": resume, "overwrite": overwrite, "each_patch": each_patch,
        }  # fmt: skip
        options = Options(**given)
        if Path(model).suffix.lower() in SUFFIXES:
            model = str(write_checkpoint_as_onnx(Path(model), out))
        engine = load_engine(
            model, preprocessing, size, labels, batch_size=batch_size, threads=threads, **model_options
        )
        run = ReproductionRun(engine, data, options, out)
        for name in names:
            started = time.monotonic()
            with progress_bar(name) as show:
                run.progress = lambda what, done, total: show(done, total or None, what)
                found = measure(name, engine, run=run)
            _print_table(found)
            files = f"files in {out / name}: table.md, results.json; took {time.monotonic() - started:.0f} s"
            make_console().print(strip_control(files), soft_wrap=True, markup=False)


def _print_table(found: ReproducedTable) -> None:
    from rich.table import Table
    from rich.text import Text

    from camrt.evaluation.papers.table_text import column_titles, notes, pattern_rows, row_cells

    table = Table(title=Text(f"{found.table.name}: {found.table.heading}"))
    for title in column_titles(found):
        table.add_column(Text(strip_control(title), overflow="fold"))
    for row in found.rows:
        add_row(table, *row_cells(found, row))
    make_console().print(table)
    patterns = pattern_rows(found)
    if patterns:
        listing = Table("task, reading, measure", "(1)", "(2)", "(3)", title="Does the paper's pattern hold?")
        for texts in patterns:
            add_row(listing, *texts)
        make_console().print(listing)
    for line in notes(found):
        make_console().print(strip_control(line), soft_wrap=True, markup=False)


def add_command(app: typer.Typer) -> None:
    """Adds the command to the command line."""
    app.command()(reproduce)
