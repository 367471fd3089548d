"""Where boxes of cells are placed on a map, and which cells each placement speaks for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from camrt.engine.arrays import like

__all__ = ["Grid", "Placements", "place_boxes"]

Array = Any


@dataclass(frozen=True, eq=False)
class Grid:
    """All placements of one box shape.

    Attributes:
        shape: (m, n) of the box.
        index: For "coverage" (h+m−1, w+n−1): placement (i, j) covers rows i−m+1 … i, clipped at the border.
            For "anchor" (h, w): placement (i, j) covers rows i … i+m−1, clipped. Each entry is the row of its
            box in `Placements.distinct`.
        assignment: "coverage" or "anchor".
    """

    shape: tuple[int, int]
    index: npt.NDArray[np.int64]
    assignment: Literal["coverage", "anchor"]

    def per_cell(self, values: Array) -> Array:
        """Means over the placements that speak for each cell: (N, P, T) -> (N, h, w, T)."""
        placed = values[:, like(self.index, values)]
        if self.assignment == "anchor":
            return placed
        (rows, columns), (height, width) = self.shape, self.index.shape
        height, width = height - rows + 1, width - columns + 1
        shifted = [
            placed[:, down : down + height, right : right + width]
            for down in range(rows)
            for right in range(columns)
        ]
        return sum(shifted[1:], start=shifted[0]) / (rows * columns)


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
    shapes: tuple[tuple[int, int], ...],
    cells: tuple[int, int],
    assignment: Literal["coverage", "anchor"],
) -> Placements:
    """Places box shapes on an h×w map; clipped boxes that coincide are listed once."""
    rows: dict[tuple[int, int, int, int], int] = {}
    grids = []
    height, width = cells
    for tall, wide in shapes:
        start = (1 - tall, 1 - wide) if assignment == "coverage" else (0, 0)
        index = [
            [
                rows.setdefault(
                    (max(top, 0), max(left, 0), min(top + tall, height), min(left + wide, width)),
                    len(rows),
                )
                for left in range(start[1], width)
            ]
            for top in range(start[0], height)
        ]
        grids.append(Grid((tall, wide), np.array(index, np.int64), assignment))
    distinct = np.array(list(rows), np.int64)
    distinct.flags.writeable = False
    return Placements(distinct, tuple(grids))
