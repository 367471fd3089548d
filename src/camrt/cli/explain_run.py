"""What `camrt explain` prints of a run: its images where there are few, and how far it is."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from rich.text import Text

from camrt.cli.output import make_console, print_left_out, strip_control
from camrt.cli.progress import progress_bar
from camrt.cli.result_lines import print_results
from camrt.cli.result_rows import ResultRow, make_rows, print_table
from camrt.engine.arrays import to_numpy
from camrt.engine.runs.actors import Cluster
from camrt.engine.runs.job import RESULT_KINDS, ResultKind
from camrt.engine.runs.on_ray import explain_on_ray
from camrt.engine.runs.run import RunSummary, explain_run
from camrt.engine.runs.sources import find_items, list_ahead, lists_quickly

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console

    from camrt.cli.progress import ShowProgress
    from camrt.engine.runs.job import ExplainJob
    from camrt.engine.runs.stream import ExplainedBatch

__all__ = ["explain_sources"]

MOST_LINES = 20  # images that are told of one by one; of more the files tell
MOST_CLASSES = 5  # that are named where the images are not
FILES: dict[ResultKind, str] = {
    "overlays": "pictures",
    "arrays": "explanation.npz",
    "maps": "maps/*.parquet",
    "table": "results.csv",
}


class _Printer:
    """Prints what a run tells, from whichever thread."""

    def __init__(self, job: ExplainJob, console: Console, results: Console, *, quiet: bool) -> None:
        self._job = job
        self._console = console
        self._results = results
        self._quiet = quiet
        self._rows: list[ResultRow] = []  # for the table at the end
        self._count = 0  # images
        self._classes: Counter[str] = Counter()
        self._flagged = 0
        self._failed = 0
        self._show: ShowProgress | None = None
        self._total: int | None = None
        self.picture: Path | None = None  # the first that was written

    def set_total(self, images: int) -> None:
        """There are so many images."""
        self._total = images

    def failed(self, error: str) -> None:
        self._failed += 1
        if self._failed <= MOST_LINES:
            self._console.print(Text(f"skipped: {strip_control(error)}", "yellow"), soft_wrap=True)

    def written(self, batch: ExplainedBatch, overlays: list[str | None]) -> None:
        explanation = batch.explanation
        if explanation is None:
            return
        if self.picture is None:
            self.picture = next((self._job.out / name for name in overlays if name is not None), None)
        if self._quiet:
            return
        left = max(MOST_LINES - self._count, 0)
        files = [image.item.address for image in batch.images if image.error is None]
        told = self._job.question.engine.interface.recognised is not None
        if left and self._results.is_terminal:
            self._rows += make_rows(files[:left], explanation[:left], overlays, told)
        elif left:
            places = [None if name is None else self._job.out / name for name in overlays]
            print_results(self._results, files[:left], explanation[:left], places, told)
        self._count += len(explanation)
        self._classes.update(explanation.label(i) for i in range(len(explanation)))
        self._flagged += int(np.count_nonzero(to_numpy(explanation.flags)))

    def progress(self, summary: RunSummary) -> None:
        if self._show is not None:
            total = None if self._total is None else self._total - summary.kept
            self._show(summary.done - summary.kept, total, note=describe(summary))

    @contextmanager
    def bar(self) -> Iterator[None]:
        """A bar of progress, in a terminal; else a line a minute."""
        if self._quiet:
            yield
            return
        with progress_bar("explaining", total=self._total, on=self._console) as show:
            self._show = show
            yield

    def end(self) -> None:
        """Prints what could not be told before all was done."""
        if self._failed > MOST_LINES:
            self._console.print(Text(f"skipped: {self._failed - MOST_LINES} more", "yellow"))
        if self._quiet:
            return
        if self._rows and self._count <= MOST_LINES:
            print_table(self._results, self._rows)
        if self._count > MOST_LINES:
            common = self._classes.most_common(MOST_CLASSES)
            more = ", …" * (len(self._classes) > len(common))
            named = ", ".join(f"{label} ({count})" for label, count in common) + more
            self._print(f"most often: {named}")
            if self._flagged:
                self._print(f"{self._flagged} maps are empty: the flags say why")

    def _print(self, text: str) -> None:
        self._results.print(strip_control(text), markup=False, soft_wrap=True)


def describe(summary: RunSummary) -> str:
    """How quick a run is, what it waits for, and what failed."""
    failed = f", {summary.failed} failed" if summary.failed else ""
    return f"{summary.rate:.1f} images/s, {summary.timing.bound}{failed}"


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        skipped: Images that could not be read, or not be drawn on.
        picture: The first that was written.
    """

    skipped: int
    picture: Path | None


def explain_sources(
    job: ExplainJob,
    sources: Sequence[str],
    *,
    column: str | None,
    resume: bool,
    overwrite: bool,
    quiet: bool,
    cluster: Cluster | None = None,
) -> Outcome:
    """Explains, saves and prints everything.

    Args:
        job: What to do.
        sources: Where the images are.
        column: The column of paths in tables.
        resume: Go on with the run in the folder.
        overwrite: Replace it.
        quiet: Print nothing but what failed.
        cluster: Where, if not in this process.

    Raises:
        InputError: The folder holds another run, or one and nothing was said of it, or is being written.
        CamrtError: What explaining and writing raise.
    """
    errors = make_console(stderr=True)
    # One console, or the progress bar would be written over.
    results = errors if sys.stdout.isatty() and sys.stderr.isatty() else make_console()
    printer = _Printer(job, errors, results, quiet=quiet)
    on_results = partial(print_left_out, on=errors)
    with ExitStack() as stack:
        if quiet or cluster is not None or not lists_quickly(sources):
            items = find_items(sources, column=column, on_results=on_results)
        else:
            listing = list_ahead(sources, on_total=printer.set_total, on_results=on_results)
            items = stack.enter_context(listing)
        if cluster is not None:  # whose progress Ray shows
            summary = explain_on_ray(job, cluster, items, printer, resume=resume, overwrite=overwrite)
        else:
            stack.enter_context(printer.bar())
            summary = explain_run(job, items, printer, resume=resume, overwrite=overwrite)
    printer.end()
    if not quiet:
        print_summary(job, summary, results)
    return Outcome(summary.failed + summary.undrawn, printer.picture)


def print_summary(job: ExplainJob, summary: RunSummary, console: Console) -> None:
    """Prints what a run did, once."""
    asked = job.question
    options = ", ".join(f"{name}={value!r}" for name, value in asked.options.items())
    first, *others = asked.names
    shown = ", ".join([f"{first}({options})" if options and not others else first, *others])
    count = summary.explained
    besides = "".join(
        f", {number} {what}"
        for number, what in ((summary.kept, "explained before"), (summary.failed, "skipped"))
        if number
    )
    if count or summary.kept:
        # What actors elsewhere took is not known here.
        each = f", {1000 * summary.seconds / count:.1f} ms an image" if count and summary.seconds else ""
        passes = f", passes: {summary.passes}" if not count or summary.seconds else ""
        console.print(
            f"{shown}: {count} image{'s' * (count != 1)}{besides}{each}{passes}",
            markup=False,
            soft_wrap=True,
        )
        files = ", ".join(FILES[kind] for kind in RESULT_KINDS if kind in job.results)
        console.print(f"files in {strip_control(str(job.out))}: {files}", markup=False, soft_wrap=True)
