"""Where boxes of cells are placed on a map, and which cells each placement speaks for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from camrt.engine.arrays import like

__all__ = ["Assignment", "Grid", "Placements", "place_boxes"]

Array = Any


Assignment = Literal["coverage", "same", "anchor"]
"""Which placements of a box there are, and which of them speak for a cell; see `PixabCAM`."""


@dataclass(frozen=True, eq=False)
class Grid:
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

    def per_cell(self, values: Array) -> Array:
        """Means over the placements that speak for each cell: (N, P, T) -> (N, h, w, T)."""
        placed = values[:, like(self.index, values)]
        if self.assignment == "anchor":
            return placed
        counts: Any = self.shape[0] * self.shape[1]
        if self.assignment == "same":
            exists = (self.index >= 0).astype(np.float64)[None, :, :, None]
            placed = placed * like(exists, values)
            counts = like(self._covering(exists), values)
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
    grids: tuple[Grid, ...]


@lru_cache(maxsize=64)
def place_boxes(
    shapes: tuple[tuple[int, int], ...], cells: tuple[int, int], assignment: Assignment
) -> Placements:
    """Places box shapes on an h×w map; clipped boxes that coincide are listed once."""
    rows: dict[tuple[int, int, int, int], int] = {}
    grids = []
    height, width = cells
    for tall, wide in shapes:
        corners = [
            [(top, left) for left in first_cells(wide, width, assignment)]
            for top in first_cells(tall, height, assignment)
        ]
        index = [
            [
                -1
                if top is None or left is None
                else rows.setdefault(
                    (max(top, 0), max(left, 0), min(top + tall, height), min(left + wide, width)),
                    len(rows),
                )
                for top, left in line
            ]
            for line in corners
        ]
        grids.append(Grid((tall, wide), np.array(index, np.int64), assignment))
    distinct = np.array(list(rows), np.int64)
    distinct.flags.writeable = False
    return Placements(distinct, tuple(grids))


def first_cells(side: int, cells: int, assignment: Assignment) -> list[int | None]:
    """Where along one axis the placements of `Grid.index` begin; None where there is none."""
    if assignment == "anchor":
        return list(range(cells))
    first = 1 - side if assignment == "coverage" else -((side - 1) // 2)
    last = cells if assignment == "coverage" else first + cells
    return [start if first <= start < last else None for start in range(1 - side, cells)]
