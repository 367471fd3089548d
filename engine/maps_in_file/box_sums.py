"""Boxes of cells: sums over each, and means over those that cover a cell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from camrt.engine.maps_in_file.file_graph import FileGraph
from camrt.engine.methods.boxes import Assignment, Placements, place_boxes
from camrt.export.graph.node_maker import TO_THE_END

__all__ = ["Boxes", "ListedBoxes", "group_boxes"]

MOST_LISTED = 1 << 21  # cells times boxes: larger tables of which covers which are not put into a file


class Boxes(ABC):
    """Placed boxes, in two axes (a, b)."""

    @abstractmethod
    def sums(self, cells: str) -> str:
        """Sums (N, a, b, F) over each box of what cells (N, h, w, F) hold."""

    @abstractmethod
    def mean_per_cell(self, values: str) -> str:
        """Means (N, h, w, T) over the boxes that speak for each cell of values (N, a, b, T)."""


def group_boxes(
    make: FileGraph,
    shapes: Sequence[tuple[int, int]],
    assignment: Assignment,
    cells: tuple[int, int] | None,
    *,
    listed: bool = False,
) -> list[Boxes]:
    """Boxes of some shapes in groups, whose means of a cell count equally.

    Args:
        make: Makes the nodes.
        shapes: The shapes.
        assignment: Where they are placed.
        cells: (h, w) of the map; None where it may have any.
        listed: Whether they are to be one group of different boxes, however many there are.
    """
    if cells is not None:
        placements = place_boxes(tuple(shapes), cells, assignment)
        if listed or len(placements.distinct) * cells[0] * cells[1] <= MOST_LISTED:
            return [ListedBoxes(make, placements, cells)]
    return [PlacedBoxes(make, shape, assignment) for shape in shapes]


@dataclass(frozen=True)
class ListedBoxes(Boxes):
    """The different boxes of all shapes, (P, 1) of them, on a map of a known size, by tables.

    Attributes:
        make: Makes the nodes.
        placements: Which they are.
        cells: (h, w).
    """

    make: FileGraph
    placements: Placements
    cells: tuple[int, int]

    @cached_property
    def covered(self) -> npt.NDArray[np.float64]:
        """(P, h, w): one where a box covers a cell."""
        covered = np.zeros((len(self.placements.distinct), *self.cells))
        for number, (top, left, bottom, right) in enumerate(self.placements.distinct.tolist()):
            covered[number, top:bottom, left:right] = 1.0
        return covered

    @cached_property
    def _shares(self) -> npt.NDArray[np.float64]:
        """(h·w, P): what each box's value counts in a cell's mean."""
        each = np.eye(len(self.covered))[None]
        grids = [grid.mean_per_cell(each)[0] for grid in self.placements.grids]
        mean: npt.NDArray[np.float64] = (sum(grids) / len(grids)).reshape(-1, len(self.covered))
        return mean

    @override
    def sums(self, cells: str) -> str:
        make = self.make
        rows = make.reshape(
            cells, make.concat([make.sizes(cells, 0, 1), make.indices([-1]), make.sizes(cells, 3, 4)], 0)
        )
        table = make.constant(self.covered.reshape(len(self.covered), -1))
        return make.unsqueeze(make.add("MatMul", table, rows), [2])

    @override
    def mean_per_cell(self, values: str) -> str:
        make = self.make
        means = make.add("MatMul", make.constant(self._shares), make.squeeze(values, [2]))
        front, back = make.sizes(means, 0, 1), make.sizes(means, 2, 3)
        return make.reshape(means, make.concat([front, make.indices(self.cells), back], 0))


@dataclass(frozen=True)
class PlacedBoxes(Boxes):
    """All placements of a box shape (m, n) on a map of any size, see `PlacementGrid`.

    There are (h, w) of them for "anchor", else (h+m−1, w+n−1).

    Attributes:
        make: Makes the nodes.
        shape: (m, n).
        assignment: Where they are placed, and which placements a cell's value is the mean of.
    """

    make: FileGraph
    shape: tuple[int, int]
    assignment: Assignment

    @override
    def sums(self, cells: str) -> str:
        before = [0 if self.assignment == "anchor" else side - 1 for side in self.shape]
        after = [side - 1 for side in self.shape]
        padded = cells
        if any(after):
            padded = self.make.pad(cells, [0, *before, 0, 0, *after, 0])
        return self._window_sums(padded)

    @override
    def mean_per_cell(self, values: str) -> str:
        make = self.make
        if self.assignment == "anchor":
            return values
        if self.assignment == "coverage":
            return make.add("Div", self._window_sums(values), make.number(self.shape[0] * self.shape[1]))
        begin = [(side - 1) // 2 for side in self.shape]  # placements before and behind these there are none
        front = [side - 1 - first for side, first in zip(self.shape, begin, strict=True)]
        there = make.crop(values, [0, *front, 0], [0, *begin, 0])
        ones = make.add("Add", make.add("Mul", there, make.number(0.0)), make.number(1.0))
        pads = [0, *front, 0, 0, *begin, 0]
        summed, counts = (
            self._window_sums(make.pad(one, pads) if any(pads) else one) for one in (there, ones)
        )
        return make.add("Div", summed, counts)

    def _window_sums(self, values: str) -> str:
        """Sums over windows of m rows and n columns: (N, a, b, F) -> (N, a−m+1, b−n+1, F)."""
        for axis, side in zip((1, 2), self.shape, strict=True):
            shifted = [
                self.make.slice(values, [start], [start + 1 - side or TO_THE_END], [axis])
                for start in range(side)
            ]
            values = shifted[0] if side > 1 else values
            for other in shifted[1:]:
                values = self.make.add("Add", values, other)
        return values
