"""The interface every head has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from camrt.engine.arrays import every_pair, library, numbered
from camrt.engine.backends.halving import buffer_of
from camrt.engine.operations import operations
from camrt.engine.passes import PassCounter
from camrt.engine.scores import ScoreReader

__all__ = ["Asked", "Head", "channels_where", "fill_and_run", "pairs_where", "sample_boxes"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
Boxes = npt.NDArray[np.int64]  # known to the host


@dataclass(frozen=True)
class Asked:
    """One question's circumstances.

    Attributes:
        activations: (N, K, h, w) float32.
        logits: (N, C) float32, of the unaltered pictures.
        reader: Which classes' which scores are wanted.
        passes: Where passes are counted.
        extras: Further tensors the trunk pass gave, by name.
    """

    activations: Array
    logits: Array
    reader: ScoreReader
    passes: PassCounter
    extras: dict[str, Array]

    @property
    def scores(self) -> Array:
        """(N, T): the scores of the unaltered pictures."""
        return self.reader.read(self.logits, numbered(len(self.logits), self.logits))


class Head(ABC):
    """Everything behind the cut.

    All answers are exact up to rounding, and every one is for all target classes at once.
    """

    kind: str
    has_joint: bool = False
    """Whether the model holds p(y,z|x), as CALM models do."""

    @abstractmethod
    def without_channels(self, asked: Asked) -> Array:
        """(N, K, T): the scores with channel k set to zero."""

    @abstractmethod
    def with_boxes(
        self, asked: Asked, boxes: Boxes, *, delete: bool, keep: bool
    ) -> tuple[Array | None, Array | None]:
        """The scores with each box of cells set to zero, and with only that box kept.

        Args:
            asked: The circumstances.
            boxes: (P, 4) half-open (r0, c0, r1, c1).
            delete: Whether the first is wanted.
            keep: Whether the second is wanted.

        Returns:
            Two arrays (N, P, T), None where not wanted.
        """

    @abstractmethod
    def gradients(self, asked: Asked) -> Iterator[Array]:
        """For each target in turn (N, K, h, w): the gradient of its score with respect to the activation.

        It may be a read-only view that repeats one value over all cells.

        Raises:
            AdjointError: There is no way back through this head.
        """

    @abstractmethod
    def gradient_passes(self) -> tuple[int, str]:
        """How many passes through the head and back a picture and target `gradients` costs, and why."""

    @abstractmethod
    def empty(self, asked: Asked) -> Array:
        """(N, T): the scores of an all-zero activation.

        Its logits are the same for every picture: a constant of the model, found once and not counted as a
        pass. Only where tensors go around the cut is a pass a picture needed.
        """

    @property
    def has_class_maps(self) -> bool:
        """Whether `class_maps` gives any."""
        return False

    @abstractmethod
    def class_maps(self, asked: Asked) -> Array | None:
        """(N, T, h, w): the targets' class maps, whose mean is the logit; None when the head has none."""

    def class_map_passes(self) -> tuple[int, str]:
        """How many passes through the head a picture `class_maps` costs, and why."""
        return 0, "one matrix product"

    @abstractmethod
    def describe(self) -> str:
        """What the head is, in a line or two."""

    @abstractmethod
    def channel_passes(self, channels: int) -> tuple[int, str]:
        """How many passes a picture `without_channels` costs at most, and why."""

    @abstractmethod
    def box_passes(self, boxes: int) -> tuple[int, str]:
        """How many passes a picture `with_boxes` costs at most, both perspectives, and why."""


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


def pairs_where(rows: int, columns: int, array: Array, changed: Callable[[], Array]) -> tuple[Array, Array]:
    """Row and column indices of the entries of a table that alterations change.

    All entries' where they lie on a device: to find out which they are would be to wait for it.

    Args:
        rows: Of the table.
        columns: Of the table.
        array: Any that lies where it does.
        changed: Gives a mask (rows, columns), not zero where something changes; asked only where it is seen.
    """
    if operations(array).sees_values:
        mask = changed()
        found: tuple[Array, Array] = library(mask).nonzero(mask)
        return found
    return every_pair(rows, columns, array)


def channels_where(activations: Array) -> tuple[Array, Array]:
    """Picture and channel of every map that is not all zero, see `pairs_where`."""
    count, channels = activations.shape[:2]
    return pairs_where(
        count, channels, activations, lambda: library(activations).any(activations != 0, axis=(2, 3))
    )


def fill_and_run(
    pairs: tuple[Array, Array],
    row_shape: tuple[int, ...],
    batch_size: int,
    fill: Callable[[Array, Array, Array], None],
    run: Callable[[Array, Array], Array],
    rows: Callable[[tuple[int, ...]], Array],
) -> Iterator[tuple[Array, Array, Array]]:
    """Runs altered rows in full batches through one reused buffer, whichever pictures they come from.

    Args:
        pairs: Picture index and alteration index of every row.
        row_shape: Shape of one row.
        batch_size: Rows a batch.
        fill: Writes the rows of given pictures and alterations into an array.
        run: Logits (B, C) of filled rows, given the rows and the picture each belongs to.
        rows: Makes the buffer, given its shape.

    Yields:
        Picture indices, alteration indices and logits of each batch.
    """
    batch_index, index = pairs
    if not len(batch_index):
        return
    buffer = buffer_of(rows, min(batch_size, len(batch_index)), row_shape, operations(batch_index))
    size = len(buffer)
    for start in range(0, len(batch_index), size):
        batch_rows, indices = batch_index[start : start + size], index[start : start + size]
        filled = buffer[: len(batch_rows)]
        fill(batch_rows, indices, filled)
        yield batch_rows, indices, run(filled, batch_rows)
