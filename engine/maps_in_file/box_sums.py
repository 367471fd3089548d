"""Boxes of one shape on a map of any size: sums over each, and means over those that cover a cell."""

from __future__ import annotations

from dataclasses import dataclass

from camrt.engine.maps_in_file.file_graph import FileGraph
from camrt.engine.methods.boxes import Assignment
from camrt.export.graph.node_maker import TO_THE_END

__all__ = ["PlacedBoxes"]


@dataclass(frozen=True)
class PlacedBoxes:
    """All placements of a box shape (m, n), see `camrt.engine.methods.boxes.PlacementGrid`.

    There are (h, w) of them for "anchor", else (h+m−1, w+n−1).

    Attributes:
        make: Makes the nodes.
        shape: (m, n).
        assignment: Where they are placed, and which placements a cell's value is the mean of.
    """

    make: FileGraph
    shape: tuple[int, int]
    assignment: Assignment

    def sums(self, cells: str) -> str:
        """Sums (N, a, b, F) over each placement of what cells (N, h, w, F) hold."""
        before = [0 if self.assignment == "anchor" else side - 1 for side in self.shape]
        after = [side - 1 for side in self.shape]
        padded = cells
        if any(after):
            padded = self.make.pad(cells, [0, *before, 0, 0, *after, 0])
        return self._window_sums(padded)

    def mean_per_cell(self, values: str) -> str:
        """Means (N, h, w, T) over the placements that speak for each cell of values (N, a, b, T)."""
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
