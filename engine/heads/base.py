"""The interface every head has."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from camrt.engine.arrays import all_index_pairs, arange_like, library
from camrt.engine.passes import PassCounts
from camrt.engine.runtime.batch_splitting import allocate_buffer
from camrt.engine.scores import ScoreReader
from camrt.kernels.dispatch import host_readable

__all__ = [
    "Head",
    "Masks",
    "QueryContext",
    "find_changed_pairs",
    "find_nonzero_channels",
    "run_altered_rows",
    "sample_boxes",
]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
Boxes = npt.NDArray[np.int64]  # known to the host
Masks = npt.NDArray[np.float32]


@dataclass(frozen=True)
class QueryContext:
    """The batch and the scores that a query to a head is about.

    Attributes:
        activations: (N, K, h, w) float32.
        logits: (N, C) float32, of the unaltered images.
        reader: Which classes' which scores are wanted.
        passes: Where passes are counted.
        extras: Further tensors the trunk pass gave, by name.
    """

    activations: Array
    logits: Array
    reader: ScoreReader
    passes: PassCounts
    extras: dict[str, Array]

    @property
    def scores(self) -> Array:
        """(N, T): the scores of the unaltered images."""
        return self.reader.read(self.logits, arange_like(len(self.logits), self.logits))


class Head(ABC):
    """Everything behind the cut.

    All answers are exact up to rounding, and every one is for all target classes at once.
    """

    kind: str
    curvature: Callable[[QueryContext], Iterator[tuple[Array, Array]]] | None = None
    """For each target in turn the gradient of its score, and the score's Hessian times the activation."""

    multipliers: Callable[[QueryContext], Iterator[Array]] | None = None
    """For each target in turn DeepLIFT's multipliers of its logit against an empty activation."""
    relevance: Callable[[QueryContext], Iterator[Array]] | None = None
    """For each target in turn LRP's relevance of its logit, held against the other classes'."""

    @abstractmethod
    def scores_without_channels(self, context: QueryContext) -> Array:
        """(N, K, T): the scores with channel k set to zero."""

    @abstractmethod
    def scores_with_boxes(
        self, context: QueryContext, boxes: Boxes, *, delete: bool, keep: bool
    ) -> tuple[Array | None, Array | None]:
        """The scores with each box of cells set to zero, and with only that box kept.

        Args:
            context: The circumstances.
            boxes: (P, 4) half-open (r0, c0, r1, c1).
            delete: Whether the first is wanted.
            keep: Whether the second is wanted.

        Returns:
            Two arrays (N, P, T), None where not wanted.
        """

    @abstractmethod
    def scores_with_masks(self, context: QueryContext, masks: Masks) -> Array:
        """(N, P, T): the scores with the activation's cells, in all channels, times each mask (P, h, w)."""

    @abstractmethod
    def mask_passes(self, masks: int) -> tuple[int, str]:
        """How many passes an image `scores_with_masks` costs at most, and why."""

    @abstractmethod
    def gradients(self, context: QueryContext) -> Iterator[Array]:
        """For each target in turn (N, K, h, w): the gradient of its score with respect to the activation.

        It may be a read-only view that repeats one value over all cells.

        Raises:
            AdjointError: There is no way back through this head.
        """

    @abstractmethod
    def gradient_passes(self) -> tuple[int, str]:
        """How many passes through the head and back an image and target `gradients` costs, and why."""

    @abstractmethod
    def scores_of_zero_activation(self, context: QueryContext) -> Array:
        """(N, T): the scores of an all-zero activation.

        Its logits are the same for every image: a constant of the model, found once and not counted as a
        pass. Only where tensors go around the cut is a pass an image needed.
        """

    def extras_of(self, activations: Array) -> dict[str, Array]:
        """What of the further tensors of a trunk pass follows from activations (N, K, h, w), by name."""
        return {}

    def row_size(self, shape: tuple[int, int, int]) -> int:
        """Numbers in what an altered activation of shape (K, h, w) is run as."""
        return math.prod(shape)

    @property
    def answers_logits_apart(self) -> bool:
        """Whether a class's logit is found in another way than its probability."""
        return False

    @property
    def has_class_maps(self) -> bool:
        """Whether `class_maps` gives any."""
        return False

    @abstractmethod
    def class_maps(self, context: QueryContext) -> Array | None:
        """(N, T, h, w): the targets' class maps, whose mean is the logit; None when the head has none."""

    def class_map_passes(self) -> tuple[int, str]:
        """How many passes through the head an image `class_maps` costs, and why."""
        return 0, "one matrix product"

    @abstractmethod
    def describe(self) -> str:
        """What the head is, in a line or two."""

    @abstractmethod
    def channel_passes(self, channels: int) -> tuple[int, str]:
        """How many passes an image `scores_without_channels` costs at most, and why."""

    @abstractmethod
    def box_passes(self, boxes: int) -> tuple[int, str]:
        """How many passes an image `scores_with_boxes` costs at most, both perspectives, and why."""


def sample_boxes(height: int, width: int, most: int) -> Boxes:
    """Some boxes of a map's cells, (P, 4) half-open (r0, c0, r1, c1): an inner one, halves, a corner, more.

    Args:
        height: Of the map, in cells.
        width: Of the map, in cells.
        most: How many there are at most.
    """
    chosen = {
        (height // 3, width // 3, height // 3 + 1, width): None,
        (0, 0, height, -(-width // 2)): None,
        (0, 0, 1, 1): None,
        (height // 2, 0, height, width): None,
    }
    rng = np.random.default_rng(0)
    for _ in range(8 * most):
        top, left = rng.integers(height), rng.integers(width)
        bottom, right = rng.integers(top, height) + 1, rng.integers(left, width) + 1
        chosen.setdefault((int(top), int(left), int(bottom), int(right)))
    return np.array(list(chosen)[:most], np.int64)


def find_changed_pairs(
    rows: int, columns: int, array: Array, changed: Callable[[], Array]
) -> tuple[Array, Array]:
    """Row and column indices of the entries of a table that alterations change.

    All entries' where they lie on a device: to find out which they are would be to wait for it.

    Args:
        rows: Of the table.
        columns: Of the table.
        array: Any that lies where it does.
        changed: Gives a mask (rows, columns), not zero where something changes; asked only where it is seen.
    """
    if host_readable(array):
        mask = changed()
        found: tuple[Array, Array] = library(mask).nonzero(mask)
        return found
    return all_index_pairs(rows, columns, array)


def find_nonzero_channels(activations: Array) -> tuple[Array, Array]:
    """Image and channel of every map that is not all zero, see `find_changed_pairs`."""
    count, channels = activations.shape[:2]
    return find_changed_pairs(
        count, channels, activations, lambda: library(activations).any(activations != 0, axis=(2, 3))
    )


def run_altered_rows(
    pairs: tuple[Array, Array],
    row_shape: tuple[int, ...],
    batch_size: int,
    fill: Callable[[Array, Array, Array], None],
    run: Callable[[Array, Array], Array],
    rows: Callable[[tuple[int, ...]], Array],
) -> Iterator[tuple[Array, Array, Array]]:
    """Runs altered rows in full batches through one reused buffer, whichever images they come from.

    Args:
        pairs: Image index and alteration index of every row.
        row_shape: Shape of one row.
        batch_size: Rows a batch.
        fill: Writes the rows of given images and alterations into an array.
        run: Scores (B, T) of filled rows, given the rows and the image each belongs to.
        rows: Makes the buffer, given its shape.

    Yields:
        Image indices, alteration indices and scores of each batch.
    """
    batch_index, index = pairs
    if not len(batch_index):
        return
    buffer = allocate_buffer(rows, min(batch_size, len(batch_index)), row_shape, batch_index)
    size = len(buffer)
    for start in range(0, len(batch_index), size):
        batch_rows, indices = batch_index[start : start + size], index[start : start + size]
        filled = buffer[: len(batch_rows)]
        fill(batch_rows, indices, filled)
        yield batch_rows, indices, run(filled, batch_rows)
