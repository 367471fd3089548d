"""A run over a source: read, decoded, explained and written at once; one that was stopped is gone on with."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from camrt.engine.passes import PassCounts
from camrt.engine.run_folder import RunFolder, lock_folder
from camrt.engine.runs.block_writer import BlockWriter
from camrt.engine.runs.blocks import Block, BlockEnd, FinishedBlock, KeptBlock, plan_blocks
from camrt.engine.runs.decoding import AHEAD, DecodedImage, Decoding, decode_ahead, read_ahead
from camrt.engine.runs.items import ImageItem
from camrt.engine.runs.job import ExplainJob
from camrt.engine.runs.run_notes import RunNotes
from camrt.engine.runs.stream import ExplainedBatch, Timing, batches

__all__ = ["RunListener", "RunSummary", "explain_block", "explain_run", "open_notes"]

WAITING_WRITES = 2  # batches that are explained and not written yet


@dataclass
class RunSummary:
    """How far a run is.

    Attributes:
        explained: Images explained.
        kept: Images whose results were there already.
        failed: Images that could not be read, kept ones among them.
        undrawn: Images that were explained, and could not be drawn on.
        seconds: What the explanations took.
        passes: What was run for them.
        timing: What the run waited for.
        started: When it began, by `time.monotonic`.
    """

    explained: int = 0
    kept: int = 0
    failed: int = 0
    undrawn: int = 0
    seconds: float = 0.0
    passes: PassCounts = field(default_factory=PassCounts)
    timing: Timing = field(default_factory=Timing)
    started: float = field(default_factory=time.monotonic)

    def keep(self, block: FinishedBlock, listener: RunListener) -> None:
        """Counts a block whose results were there already."""
        for error in block.errors:
            listener.failed(error)
        self.failed += len(block.errors)
        self.kept += block.images - len(block.errors)
        listener.progress(self)

    def count(self, batch: ExplainedBatch, listener: RunListener) -> None:
        """Counts images that were explained."""
        for image in batch.images:
            if image.error is not None:
                listener.failed(image.error)
                self.failed += 1
        if batch.explanation is not None:
            self.explained += len(batch.explanation)
        for one in batch.explanations:
            self.seconds += one.seconds
            self.passes = self.passes + one.passes
        listener.progress(self)

    @property
    def done(self) -> int:
        """Images that are dealt with."""
        return self.explained + self.kept + self.failed

    @property
    def rate(self) -> float:
        """Images explained a second."""
        return self.explained / max(time.monotonic() - self.started, 1e-9)


class RunListener(Protocol):
    """What is told of a run while it goes on, by several threads."""

    def failed(self, error: str) -> None:
        """An image could not be read."""

    def written(self, batch: ExplainedBatch, overlays: list[str | None]) -> None:
        """Some images are explained, and their overlays written."""

    def progress(self, summary: RunSummary) -> None:
        """So much is done."""


def explain_run(
    job: ExplainJob,
    items: Iterator[ImageItem],
    listener: RunListener,
    *,
    resume: bool,
    overwrite: bool,
) -> RunSummary:
    """Explains images and writes the results.

    Args:
        job: What to do.
        items: The images.
        listener: Is told.
        resume: Go on with the run in the folder.
        overwrite: Replace it.

    Raises:
        InputError: The folder holds another run, or one and nothing was said of it, or is being written.
        CamrtError: What explaining and writing raise.
    """
    with open_notes(job, resume=resume, overwrite=overwrite) as notes:
        return _Run(job, notes, listener).run(items)


@contextmanager
def open_notes(job: ExplainJob, *, resume: bool, overwrite: bool) -> Iterator[RunNotes]:
    """The notes of a run, whose folder is held while the block runs; see `explain_run`."""
    with lock_folder(job.out):
        folder = RunFolder(job.out, "explanation", job.identity(), resume=resume, overwrite=overwrite)
        yield RunNotes(folder, "table" in job.results)


class _Run:
    def __init__(self, job: ExplainJob, notes: RunNotes, listener: RunListener) -> None:
        self.job = job
        self.notes = notes
        self.listener = listener
        self.summary = RunSummary()

    def run(self, items: Iterator[ImageItem]) -> RunSummary:
        job, former = self.job, self.notes.former
        plan = plan_blocks(items, job.block_size, former, job.out)
        elements = decoded_blocks(plan, job.decoding)
        last = 0
        with (
            read_ahead(elements, job.decoding.threads, AHEAD * job.batch_size) as reading,
            in_another_thread() as later,
        ):
            found = iter(reading)
            for element in found:
                if isinstance(element, KeptBlock):
                    last = element.number
                    self.notes.keep(last)
                    self.summary.keep(element.finished, self.listener)
                elif isinstance(element, Block):
                    last = element.number
                    if last in former:
                        later(partial(self.notes.drop, last))
                    self.explain(element, images_of_block(found), later)
        for number in [found for found in former if found > last]:  # of images that are gone
            self.notes.drop(number)
        self.notes.write_table()
        return self.summary

    def explain(self, block: Block, images: Iterator[DecodedImage], later: Later) -> None:
        """Explains a block, and has it written."""
        writer = BlockWriter(self.job, block, self.notes.claim)
        try:
            for batch in batches(images, self.job.question, self.job.batch_size, self.summary.timing):
                later(partial(self.write, writer, batch))
                self.summary.count(batch, self.listener)
            later(partial(self.finish, block.number, writer))
        except BaseException as error:
            later.call_at_last(partial(writer.abandon, error))
            raise

    def write(self, writer: BlockWriter, batch: ExplainedBatch) -> None:
        told = len(writer.undrawn)
        with writer.abandoned_on_error():
            overlays = writer.write(batch)
        for error in writer.undrawn[told:]:
            self.listener.failed(error)
            self.summary.undrawn += 1
        self.listener.written(batch, overlays)

    def finish(self, number: int, writer: BlockWriter) -> None:
        with writer.abandoned_on_error():
            done = writer.finish()
        self.notes.finish(number, done)


def decoded_blocks(
    plan: Iterable[Block | KeptBlock], decoding: Decoding
) -> Iterator[Block | KeptBlock | BlockEnd | DecodedImage | Callable[[], Any]]:
    """Blocks, each that is still to do with its images and its end behind it."""
    for block in plan:
        yield block
        if isinstance(block, Block):
            for item in block.items:
                yield partial(decoding.decode, item)
            yield BlockEnd()


def explain_block(job: ExplainJob, block: Block) -> FinishedBlock:
    """Explains a block by itself, for a run whose notes are written elsewhere."""
    writer = BlockWriter(job, block, lambda names: None)
    with (
        decode_ahead(block.items, job.decoding, job.batch_size) as reading,
        writer.abandoned_on_error(),
    ):
        for batch in batches(reading, job.question, job.batch_size, Timing()):
            writer.write(batch)
        return writer.finish()


def images_of_block(elements: Iterator[Any]) -> Iterator[DecodedImage]:
    """What follows until a block ends."""
    for element in elements:
        if not isinstance(element, DecodedImage):
            return
        yield element


class Later:
    """Calls functions in another thread, one after the other, none after one that failed.

    What a function raises is raised by a later call.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._pending: deque[Future[None]] = deque()
        self._failed = False

    def __call__(self, function: Callable[[], None]) -> None:
        while len(self._pending) > WAITING_WRITES:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._call, function))

    def _call(self, function: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            function()
        except BaseException:
            self._failed = True
            raise

    def wait(self) -> None:
        """Waits until all were called."""
        while self._pending:
            self._pending.popleft().result()

    def call_at_last(self, function: Callable[[], None]) -> None:
        """Calls a function after all others, even if one of them failed."""
        self._pool.submit(function).result()


@contextmanager
def in_another_thread() -> Iterator[Later]:
    """A thread that calls functions, all of which are done when the block ends without an error."""
    with ThreadPoolExecutor(1, "camrt-write") as pool:
        later = Later(pool)
        yield later
        later.wait()
