"""Measures an evaluation's blocks of images: each is read while another is measured, or all on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from camrt.engine.digests import file_digest
from camrt.engine.images.preprocess import Preprocessing
from camrt.engine.runs.actors import WINDOW, Cluster, connect
from camrt.engine.runs.decoding import read_ahead
from camrt.errors import AdjointError, CamrtError, MethodError
from camrt.evaluation.datasets import Sample
from camrt.evaluation.datasets.regions import PngRegion
from camrt.evaluation.suite.block_store import FileHashes, MeasuredBlocks
from camrt.evaluation.suite.measurement import Measurements, measure_block
from camrt.evaluation.suite.plan import MeasurementPlan
from camrt.evaluation.suite.prepared_sample import PreparedSample, prepare_sample

__all__ = ["BlockMeasurer", "ImageBlocks", "Progress", "hash_files", "measure_blocks"]

Progress = Callable[[float, int], None]
"""Told how many images are done, and how many there are."""


@dataclass(frozen=True)
class BlockMeasurer:
    """Reads and measures blocks of images; it can be pickled where its model's engine can.

    Attributes:
        plan: What is measured.
        preprocessing: The model's.
        root: Folder of the data set, which files are named after.
        inclusive_boxes: Whether a box's last row and column belong to it.
    """

    plan: MeasurementPlan
    preprocessing: Preprocessing
    root: Path
    inclusive_boxes: bool

    def __call__(self, samples: Sequence[Sample]) -> tuple[Measurements, FileHashes]:
        """What is measured on some images, and what their files held."""
        read = self.read(samples)
        return self.measure(read), read.contents

    def read(self, samples: Sequence[Sample]) -> ReadBlock:
        """The images that can be read, and what was wrong with them and the others."""
        contents = hash_files(samples, self.root)
        ready: list[PreparedSample] = []
        faults = []
        masks = self.plan.needs_maps_of("objects")
        for sample in samples:
            try:
                item = prepare_sample(sample, self.preprocessing, masks=masks, inclusive=self.inclusive_boxes)
            except CamrtError as error:
                faults.append(f"{sample.path}: not measured: {error}")
                continue
            ready.append(item)
            faults += [f"{item.name}: {text}" for text in item.problems]
        return ReadBlock(contents, ready, faults)

    def measure(self, block: ReadBlock, advance: Callable[[float], None] | None = None) -> Measurements:
        """What is measured on images that were read.

        Args:
            block: The images.
            advance: Told from time to time which share of the block is done.

        Raises:
            MethodError: A method that this model does not admit; it names all of them.
        """
        if not block.ready:
            return Measurements(problems=block.faults)
        try:
            found = measure_block(self.plan, block.ready, advance)
        except (MethodError, AdjointError):
            self._explain_refusal(block.ready[0])
            raise
        found.problems += block.faults
        return found

    def _explain_refusal(self, item: PreparedSample) -> None:
        """Raises one error that names every method which the model cannot run."""
        refused = []
        for name, method in self.plan.methods.items():
            try:
                self.plan.engine.explain(item.pixels[None], method)
            except (MethodError, AdjointError) as error:
                refused.append(f"{name}: {error}")
        if refused:
            raise MethodError("this model does not admit " + "; ".join(refused))


def hash_files(samples: Sequence[Sample], root: Path) -> FileHashes:
    """The files of some images and of their masks, with hashes of their contents."""
    found: FileHashes = []
    for sample in samples:
        regions = [region for mask in sample.masks for region in (mask.region, *mask.ignored)]
        files = [region.path for region in regions if isinstance(region, PngRegion)]
        for path in dict.fromkeys([sample.path, *files]):
            name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
            found.append([name, file_digest(path)])
    return found


@dataclass(frozen=True)
class ReadBlock:
    """Images of a run, read to be measured together.

    Attributes:
        contents: Hashes of their files.
        ready: Those that could be read.
        faults: What was wrong with the others.
    """

    contents: FileHashes
    ready: list[PreparedSample]
    faults: list[str]


ReadingBlock = tuple[int, int, ReadBlock]
"""A block's number, how many images it has, and those that could be read."""


class ImageBlocks:
    """The images of a run, some at a time.

    Args:
        samples: All of them.
        size: Images of a block.
    """

    def __init__(self, samples: Sequence[Sample], size: int) -> None:
        self.samples = samples
        self.size = size

    def __iter__(self) -> Iterator[tuple[int, Sequence[Sample]]]:
        for number, start in enumerate(range(0, len(self.samples), self.size)):
            yield number, self.samples[start : start + self.size]


def measure_blocks(
    measurer: BlockMeasurer,
    blocks: ImageBlocks,
    kept: MeasuredBlocks,
    progress: Progress | None,
    cluster: Cluster | None = None,
) -> None:
    """Measures what is not measured yet.

    Args:
        measurer: Measures a block.
        blocks: The images.
        kept: What is measured already, and where the rest is put.
        progress: Told how far it is.
        cluster: Where; None reads a block here, while the one before it is measured.

    Raises:
        CamrtError: See `evaluate`.
    """
    done, total = 0, len(blocks.samples)

    def tell(images: int, share: float = 0.0) -> None:
        if progress is not None:
            progress(done + share * images, total)

    for number, samples in blocks:
        if number in kept:
            kept.check_unchanged(number, hash_files(samples, measurer.root))
            done += len(samples)
            tell(0)
    left = ((number, samples) for number, samples in blocks if number not in kept)

    def finish(number: int, images: int, found: tuple[Measurements, FileHashes]) -> None:
        nonlocal done
        kept.write(number, *found)
        done += images
        tell(0)

    if cluster is None:
        reading: Iterator[ReadingBlock | Callable[[], ReadingBlock]] = (
            partial(_read, measurer, number, samples) for number, samples in left
        )
        with read_ahead(reading, threads=1, ahead=1) as ready:
            for number, images, block in ready:
                finish(number, images, (measurer.measure(block, partial(tell, images)), block.contents))
        return
    with connect(cluster) as actors:
        while window := dict(islice(left, WINDOW)):
            for number, found in actors.run(measurer, window):
                finish(number, len(window[number]), found)


def _read(measurer: BlockMeasurer, number: int, samples: Sequence[Sample]) -> ReadingBlock:
    return number, len(samples), measurer.read(samples)
