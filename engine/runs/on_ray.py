"""A run on the machines of a Ray cluster: blocks go to actors that hold an engine each, through Ray Data.

An actor explains a block as a run on one machine does (`camrt.engine.runs.run.explain_block`), and its file
of rows appears whole or not at all; so a block that is tried again, because an actor was lost, is there once.
The folder of results must be the same for all machines.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice

from camrt.engine.runs.actors import WINDOW, ActorPool, Cluster, connect
from camrt.engine.runs.block_writer import rows_name
from camrt.engine.runs.blocks import Block, KeptBlock, plan_blocks
from camrt.engine.runs.items import ImageItem
from camrt.engine.runs.job import ExplainJob
from camrt.engine.runs.run import RunListener, RunSummary, explain_block, open_notes
from camrt.engine.runs.run_notes import RunNotes
from camrt.errors import InputError

__all__ = ["explain_on_ray"]


def explain_on_ray(
    job: ExplainJob,
    cluster: Cluster,
    items: Iterator[ImageItem],
    listener: RunListener,
    *,
    resume: bool,
    overwrite: bool,
) -> RunSummary:
    """Explains images on a Ray cluster; the rows are those of `camrt.engine.runs.run.explain_run`.

    Args:
        job: What to do; rows are all that is written.
        cluster: Where.
        items: The images.
        listener: Is told of images that failed.
        resume: Go on with the run in the folder.
        overwrite: Replace it.

    Raises:
        InputError: Something else than rows is to be written; or see `explain_run`.
        BackendError: Ray fails, or there is no such cluster.
        MissingExtraError: Ray is not installed.
        CamrtError: What explaining and writing raise, in the actor that met it.
    """
    if job.results != {"maps"}:
        raise InputError(
            "on Ray, rows with maps are all that is written (--write maps): overlays are drawn from them "
            "afterwards, camrt.open_run(folder)[0].overlay(0)"
        )
    with open_notes(job, resume=resume, overwrite=overwrite) as notes, connect(cluster) as actors:
        return _RayRun(job, notes, listener, actors).run(items)


class _RayRun:
    def __init__(self, job: ExplainJob, notes: RunNotes, listener: RunListener, actors: ActorPool) -> None:
        self.job = job
        self.notes = notes
        self.listener = listener
        self.actors = actors
        self.summary = RunSummary()

    def run(self, items: Iterator[ImageItem]) -> RunSummary:
        job, former = self.job, self.notes.former
        plan = plan_blocks(items, job.block_size, former, job.out)
        last = 0
        while window := list(islice(plan, WINDOW)):
            last = window[-1].number
            waiting: dict[int, Block] = {}
            for element in window:
                if isinstance(element, KeptBlock):
                    self.notes.keep(element.number)
                    self.summary.keep(element.finished, self.listener)
                    continue
                if element.number in former:
                    self.notes.drop(element.number)
                self.notes.claim([rows_name(element.number)])
                waiting[element.number] = element
            if waiting:
                self.explain(waiting)
        for number in [found for found in former if found > last]:
            self.notes.drop(number)
        return self.summary

    def explain(self, blocks: dict[int, Block]) -> None:
        """Has blocks explained by actors, and notes each as it is finished."""
        for number, done in self.actors.run(partial(explain_block, self.job), blocks):
            self.notes.finish(number, done)
            for error in done.errors:
                self.listener.failed(error)
            self.summary.failed += len(done.errors)
            self.summary.explained += done.images - len(done.errors)
