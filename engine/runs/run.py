"""A run over a source: read, decoded, explained and written at once; one that was stopped is gone on with."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import Any, Protocol

import numpy as np
from PIL import Image

from camrt.engine.images.framing import Framing
from camrt.engine.passes import PassCounts
from camrt.engine.run_folder import RunFolder, lock_folder
from camrt.engine.runs.block_writer import BlockWriter
from camrt.engine.runs.blocks import Block, FinishedBlock, KeptBlock, plan_blocks
from camrt.engine.runs.decoding import DecodedImage, ModelImage, read_ahead
from camrt.engine.runs.items import ImageItem
from camrt.engine.runs.job import ExplainJob
from camrt.engine.runs.rows import MapShapes
from camrt.engine.runs.stream import AHEAD, ExplainedBatch, Timing, batches

__all__ = ["RunListener", "RunSummary", "explain_run"]

WAITING_WRITES = 2  # batches that are explained and not written yet


@dataclass
class RunSummary:
    """How far a run is.

    Attributes:
        explained: Images explained.
        kept: Images whose results were there already.
        failed: Images that could not be read, kept ones among them.
        seconds: What the explanations took.
        passes: What was run for them.
        timing: What the run waited for.
        started: When it began, by `time.monotonic`.
    """

    explained: int = 0
    kept: int = 0
    failed: int = 0
    seconds: float = 0.0
    passes: PassCounts = field(default_factory=PassCounts)
    timing: Timing = field(default_factory=Timing)
    started: float = field(default_factory=time.monotonic)

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

    def written(self, batch: ExplainedBatch, overlays: list[str]) -> None:
        """Some images are explained, and their overlays written."""

    def progress(self, summary: RunSummary) -> None:
        """So much is done."""


def explain_run(
    job: ExplainJob, items: Iterator[ImageItem], listener: RunListener, *, resume: bool, overwrite: bool
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
    with lock_folder(job.out):
        folder = RunFolder(job.out, "explanation", job.identity(), resume=resume, overwrite=overwrite)
        return _Run(job, folder, listener).run(items)


class _Run:
    def __init__(self, job: ExplainJob, folder: RunFolder, listener: RunListener) -> None:
        self.job = job
        self.folder = folder
        self.listener = listener
        self.summary = RunSummary()
        self.finished: dict[int, FinishedBlock] = {}
        for note in folder.finished:
            if isinstance(note.get("block"), int):
                if note.get("dropped"):
                    self.finished.pop(note["block"], None)
                else:
                    self.finished[note["block"]] = FinishedBlock.from_note(note)
        self.written: set[str] = set()  # names of files that are this run's

    def run(self, items: Iterator[ImageItem]) -> RunSummary:
        job = self.job
        plan = plan_blocks(items, job.block_size, self.finished, job.out, job.decoding)
        last = 0
        with (
            read_ahead(plan, job.decoding.threads, AHEAD * job.batch_size) as reading,
            in_another_thread() as later,
        ):
            elements = iter(reading)
            for element in elements:
                if isinstance(element, KeptBlock):
                    last = element.number
                    self.keep(element)
                elif isinstance(element, Block):
                    last = element.number
                    images = (one for one in takewhile(is_image, elements) if isinstance(one, DecodedImage))
                    self.explain(element, images, later)
        for number in [found for found in self.finished if found > last]:  # of images that are gone
            self.drop(number)
        return self.summary

    def keep(self, block: KeptBlock) -> None:
        """Takes a block as it is."""
        self.written.update(block.finished.files)
        for error in block.finished.errors:
            self.listener.failed(error)
        self.summary.failed += len(block.finished.errors)
        self.summary.kept += block.finished.images - len(block.finished.errors)
        self.listener.progress(self.summary)

    def explain(self, block: Block, images: Iterator[DecodedImage], later: Later) -> None:
        """Explains a block, and has it written."""
        if block.number in self.finished:
            later(partial(self.drop, block.number))
        writer = BlockWriter(self.job, self.folder, block, self.find_shapes)
        try:
            for batch in batches(images, self.job.question, self.job.batch_size, self.summary.timing):
                later(partial(self.write, writer, batch))
                self.count(batch)
            later(partial(self.finish, writer))
        except BaseException as error:
            later.call_at_last(partial(writer.abandon, error))
            raise

    def write(self, writer: BlockWriter, batch: ExplainedBatch) -> None:
        with writer.abandoned_on_error():
            overlays = writer.write(batch)
        self.written.update(writer.files)
        self.listener.written(batch, overlays)

    def finish(self, writer: BlockWriter) -> None:
        with writer.abandoned_on_error():
            writer.finish()
        self.written.update(writer.files)

    def count(self, batch: ExplainedBatch) -> None:
        for image in batch.images:
            if image.error is not None:
                self.listener.failed(image.error)
                self.summary.failed += 1
        if batch.explanation is not None:
            self.summary.explained += len(batch.explanation)
            self.summary.seconds += batch.explanation.seconds
            self.summary.passes = self.summary.passes + batch.explanation.passes
        self.listener.progress(self.summary)

    def drop(self, number: int) -> None:
        """Removes what an earlier run wrote of a block that is another one now."""
        former = self.finished[number]
        self.folder.finish({"block": number, "dropped": True})
        self.folder.remove([name for name in former.files if name not in self.written])

    def find_shapes(self) -> MapShapes:
        """The maps' sizes, by an image of zeros."""
        steps = self.job.decoding.preprocessing
        empty = np.zeros((steps.channels, *steps.size), np.float32)
        view = Image.new("RGB", steps.size[::-1])
        return MapShapes.of(
            self.job.question.explain([ModelImage(empty, view, Framing.whole(steps.size), None)])
        )


def is_image(element: Any) -> bool:
    """Whether a block goes on."""
    return isinstance(element, DecodedImage)


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
