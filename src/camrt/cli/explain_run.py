"""What `camrt explain` prints of a run: a line an image where there are few, and how far it is."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from rich.text import Text

from camrt.cli.output import make_console, print_left_out, progress_bar, strip_control
from camrt.cli.result_lines import print_results
from camrt.engine.runs.actors import Cluster
from camrt.engine.runs.on_ray import explain_on_ray
from camrt.engine.runs.run import RunSummary, explain_run
from camrt.engine.runs.sources import count_items, find_items

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from camrt.cli.output import ShowProgress
    from camrt.engine.runs.job import ExplainJob
    from camrt.engine.runs.stream import ExplainedBatch

__all__ = ["explain_sources"]

MOST_LINES = 20  # images that have a line each; of more the files tell
SECONDS_A_LINE = 10.0  # between lines of progress where there is no terminal


class _Printer:
    """Prints what a run tells, from whichever thread."""

    def __init__(self, job: ExplainJob, console: Console, results: Console, *, quiet: bool) -> None:
        self._job = job
        self._console = console
        self._results = results
        self._quiet = quiet
        self._lines = 0
        self.total: int | None = None
        self._show: ShowProgress | None = None
        self._told = time.monotonic()

    def failed(self, error: str) -> None:
        self._console.print(Text(f"skipped: {strip_control(error)}", "yellow"), soft_wrap=True)

    def written(self, batch: ExplainedBatch, overlays: list[str | None]) -> None:
        if batch.explanation is None or self._quiet:
            return
        left = MOST_LINES - self._lines
        count = len(batch.explanation)
        files = [image.item.address for image in batch.images if image.error is None]
        if left > 0:
            print_results(
                self._results,
                files[:left],
                batch.explanation[:left],
                [None if name is None else self._job.out / name for name in overlays],
                self._job.question.engine.interface.recognised is not None,
            )
            if count > left or (count == left and self.total is not None and self.total > MOST_LINES):
                self._results.print(
                    f"of further images only the files tell: {strip_control(str(self._job.out))}",
                    markup=False,
                    soft_wrap=True,
                )
        self._lines += count

    def progress(self, summary: RunSummary) -> None:
        if self._show is not None:
            self._show(summary.done, self.total, note=describe(summary))
        elif not self._quiet and time.monotonic() - self._told > SECONDS_A_LINE:
            self._told = time.monotonic()
            of = "" if self.total is None else f" of {self.total}"
            left = time_left(summary, self.total)
            self._console.print(f"{summary.done}{of} images, {describe(summary)}{left}", markup=False)

    @contextmanager
    def bar(self) -> Iterator[None]:
        """A bar of progress, in a terminal."""
        if self._quiet or not sys.stderr.isatty():
            yield
            return
        with progress_bar("explaining", total=self.total, on=self._console) as show:
            self._show = show
            yield


def describe(summary: RunSummary) -> str:
    """How quick a run is, what it waits for, and what failed."""
    failed = f", {summary.failed} failed" if summary.failed else ""
    return f"{summary.rate:.1f} images/s, {summary.timing.bound}{failed}"


def time_left(summary: RunSummary, total: int | None) -> str:
    """How long a run will take yet, in words; nothing where that is not known."""
    if total is None or not summary.rate:
        return ""
    seconds = max(total - summary.done, 0) / summary.rate
    return f", {seconds / 60:.0f} min left" if seconds >= 90 else f", {seconds:.0f} s left"


def explain_sources(
    job: ExplainJob,
    sources: Sequence[str],
    *,
    column: str | None,
    resume: bool,
    overwrite: bool,
    quiet: bool,
    cluster: Cluster | None = None,
) -> int:
    """Explains, saves and prints everything.

    Args:
        job: What to do.
        sources: Where the images are.
        column: The column of paths in tables.
        resume: Go on with the run in the folder.
        overwrite: Replace it.
        quiet: Print nothing but what failed.
        cluster: Where, if not in this process.

    Returns:
        How many images could not be read, or not be drawn on.

    Raises:
        InputError: The folder holds another run, or one and nothing was said of it, or is being written.
        CamrtError: What explaining and writing raise.
    """
    errors = make_console(stderr=True)
    # One console, or the progress bar would be written over.
    results = errors if sys.stdout.isatty() and sys.stderr.isatty() else make_console()
    printer = _Printer(job, errors, results, quiet=quiet)
    items = find_items(sources, column=column, on_results=partial(print_left_out, on=errors))
    if cluster is not None:  # whose progress Ray shows
        summary = explain_on_ray(job, cluster, items, printer, resume=resume, overwrite=overwrite)
    else:
        with nullcontext() if quiet else counting(sources, printer), printer.bar():
            summary = explain_run(job, items, printer, resume=resume, overwrite=overwrite)
    if not quiet:
        print_summary(job, summary, results)
    return summary.failed + summary.undrawn


@contextmanager
def counting(sources: Sequence[str], printer: _Printer) -> Iterator[None]:
    """Counts the images beside the run, where that needs no network."""
    stopped = threading.Event()

    def count() -> None:
        printer.total = count_items(sources, stopped.is_set)

    thread = threading.Thread(target=count, name="camrt-count", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def print_summary(job: ExplainJob, summary: RunSummary, console: Console) -> None:
    """Prints what a run did, once."""
    asked = job.question
    options = ", ".join(f"{name}={value!r}" for name, value in asked.options.items())
    shown = f"{asked.method}({options})" if options else str(asked.method)
    count = summary.explained
    others = "".join(
        f", {number} {what}"
        for number, what in ((summary.kept, "explained before"), (summary.failed, "skipped"))
        if number
    )
    if count or summary.kept:
        # What actors elsewhere took is not known here.
        each = f", {1000 * summary.seconds / count:.1f} ms an image" if count and summary.seconds else ""
        passes = f", passes: {summary.passes}" if not count or summary.seconds else ""
        console.print(
            f"{shown}: {count} image{'s' * (count != 1)}{others}{each}{passes}",
            markup=False,
            soft_wrap=True,
        )
        console.print(f"files in {strip_control(str(job.out))}", markup=False, soft_wrap=True)
