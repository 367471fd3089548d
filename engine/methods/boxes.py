"""Where boxes of cells are placed on a map, and which cells each placement speaks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from camrt.engine.arrays import constant_like
from camrt.export.budget import check_deadline, reserve
from camrt.kernels.caches import cache_by_bytes

__all__ = ["Assignment", "PlacementGrid", "Placements", "count_boxes", "place_boxes"]

Array = Any
BYTES_PER_PLACEMENT = 96  # of what lists them, and finds those that coincide


Assignment = Literal["coverage", "same", "anchor"]
"""Which placements of a box there are, and which of them speak for a cell; see `PixabCAM`."""


@dataclass(frozen=True, eq=False)
class PlacementGrid:
    """All placements of one box shape (m, n).

    Attributes:
        shape: (m, n) of the box.
        index: The row of each placement's box in `Placements.distinct`. For "anchor" (h, w): placement (i, j)
            covers rows i … i+m−1, clipped at the border. Otherwise (h+m−1, w+n−1): placement (i, j) covers
            rows i−m+1 … i, clipped; −1 where "same" has none.
        assignment: Which placements speak for a cell.
    """

    shape: tuple[int, int]
    index: npt.NDArray[np.int64]
    assignment: Assignment

    def mean_per_cell(self, values: Array) -> Array:
        """Means over the placements that speak for each cell: (N, P, T) -> (N, h, w, T)."""
        placed = values[:, constant_like(self.index, values)]
        if self.assignment == "anchor":
            return placed
        counts: Any = self.shape[0] * self.shape[1]
        if self.assignment == "same":
            exists = (self.index >= 0).astype(np.float64)[None, :, :, None]
            placed = placed * constant_like(exists, values)
            counts = constant_like(self._covering(exists), values)
        return self._covering(placed) / counts

    def _covering(self, placed: Array) -> Array:
        """Sums over the placements that cover each cell: (N, h+m−1, w+n−1, T) -> (N, h, w, T)."""
        (rows, columns), (height, width) = self.shape, self.index.shape
        height, width = height - rows + 1, width - columns + 1
        shifted = [
            placed[:, down : down + height, right : right + width]
            for down in range(rows)
            for right in range(columns)
        ]
        return sum(shifted[1:], start=shifted[0])


@dataclass(frozen=True, eq=False)
class Placements:
    """All placements of several box shapes.

    Attributes:
        distinct: (P, 4) half-open (r0, c0, r1, c1) of the different clipped boxes, each once.
        grids: One a box shape.
    """

    distinct: npt.NDArray[np.int64]
    grids: tuple[PlacementGrid, ...]


@cache_by_bytes()
def place_boxes(
    shapes: tuple[tuple[int, int], ...], cells: tuple[int, int], assignment: Assignment
) -> Placements:
    """Places box shapes on an h×w map; clipped boxes that coincide are listed once.

    Raises:
        MemoryLimitError: There are more placements than the call at hand may keep.
    """
    height, width = cells
    count = sum((height + tall) * (width + wide) for tall, wide in shapes)
    reserve(BYTES_PER_PLACEMENT * count, f"{count} placements of boxes")
    down = [axis_spans(tall, height, assignment) for tall, _ in shapes]
    across = [axis_spans(wide, width, assignment) for _, wide in shapes]
    rows, columns = unique_pairs(down), unique_pairs(across)
    # A box is a pair of what it covers along each axis: all placements in one line, -1 where there is none.
    numbers = [
        np.where(
            np.logical_and.outer(row[:, 0] >= 0, column[:, 0] >= 0),
            np.add.outer(rows.numbers[i] * len(columns.listed), columns.numbers[i]),
            -1,
        )
        for i, (row, column) in enumerate(zip(down, across, strict=True))
    ]
    check_deadline()
    line = np.concatenate([one.reshape(-1) for one in numbers])
    exists = line >= 0
    boxes, first, box = np.unique(line[exists], return_index=True, return_inverse=True)
    check_deadline()
    order = np.argsort(first)  # as they come up
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    line[exists] = place[box]
    row, column = np.divmod(boxes[order], len(columns.listed))
    top, left = rows.listed[row], columns.listed[column]
    distinct = np.stack([top[:, 0], left[:, 0], top[:, 1], left[:, 1]], axis=1)
    distinct.flags.writeable = False
    ends = np.cumsum([one.size for one in numbers])[:-1]
    grids = [
        PlacementGrid(shape, part.reshape(one.shape), assignment)
        for shape, part, one in zip(shapes, np.split(line, ends), numbers, strict=True)
    ]
    return Placements(distinct, tuple(grids))


def count_boxes(shapes: tuple[tuple[int, int], ...], cells: tuple[int, int], assignment: Assignment) -> int:
    """How many different clipped boxes `place_boxes` lists, without listing them.

    A box is what it covers along each axis. What is covered along one axis is sorted by which box shapes
    cover it: with it come all that any of these shapes covers along the other axis.
    """
    down, across = (
        unique_pairs([axis_spans(shape[axis], cells[axis], assignment) for shape in shapes])
        for axis in (0, 1)
    )
    kinds, counts = np.unique(covered_pairs(down), axis=1, return_counts=True)
    columns = covered_pairs(across)
    return sum(
        count * int(columns[kind].any(axis=0).sum())
        for kind, count in zip(kinds.T, counts.tolist(), strict=True)
    )


@dataclass(frozen=True, eq=False)
class _UniquePairs:
    """Different pairs of numbers.

    Attributes:
        listed: (D, 2) each once.
        numbers: For each array of pairs which ones they are.
    """

    listed: npt.NDArray[np.int64]
    numbers: list[npt.NDArray[np.int64]]


def unique_pairs(pairs: list[npt.NDArray[np.int64]]) -> _UniquePairs:
    """Numbers the pairs in several arrays (n, 2) of whole numbers from -1 on."""
    line = np.concatenate(pairs) + 1
    base = int(line.max()) + 1
    listed, numbers = np.unique(line[:, 0] * base + line[:, 1], return_inverse=True)
    ends = np.cumsum([len(one) for one in pairs])[:-1]
    return _UniquePairs(np.stack(np.divmod(listed, base), axis=1) - 1, np.split(numbers.reshape(-1), ends))


def covered_pairs(sides: _UniquePairs) -> npt.NDArray[np.bool_]:
    """(S, D): whether a placement of each of S box shapes covers each of D listed pairs."""
    found = np.zeros((len(sides.numbers), len(sides.listed)), np.bool_)
    for number, placed in enumerate(sides.numbers):
        found[number, placed] = True
    return found & (sides.listed[:, 0] >= 0)


def axis_spans(side: int, cells: int, assignment: Assignment) -> npt.NDArray[np.int64]:
    """What the placements of `PlacementGrid.index` cover along an axis, half-open (n, 2); -1 for none."""
    if assignment == "anchor":
        start = np.arange(cells)
        exists = np.ones(cells, np.bool_)
    else:
        start = np.arange(1 - side, cells)
        first = 1 - side if assignment == "coverage" else -((side - 1) // 2)
        last = cells if assignment == "coverage" else first + cells
        exists = (start >= first) & (start < last)
    covered = np.stack([np.maximum(start, 0), np.minimum(start + side, cells)], axis=1)
    return np.where(exists[:, None], covered, -1)
