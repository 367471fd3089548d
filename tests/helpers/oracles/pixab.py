"""Pixab-CAM ("Attend Pixel, not Channel", ICLR 2022 submission), Equation 7:

    p_ij = mean over boxes of (Y − Y_−b) / D  +  mean over boxes of (Y_+b − Y₀) / P

Y is the score, Y_−b the score with the box's cells zeroed in all channels, Y_+b with only those kept, Y₀
the score of an all-zero activation. "N1": D = P = Y. "N2": D = Y, P = Y₀. "N3": D = P = |Y − Y₀|. Every
divisor is at least 1e-12 and taken as a magnitude; a probability Y below 1e-12 gives a map of zeros.

A box shape m×n speaks for a cell through the placements that cover it (of the map padded by m−1 and n−1 on
all sides, clipped at the border); "same", through those of them that a convolution padded `is_same` computes,
as many as there are cells; or, "anchor", through the one whose top left cell it is. Box shapes count equally,
whatever the number of their placements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["distinct_boxes", "pixab_cam"]

Array = npt.NDArray[Any]
Shape = tuple[int, int]
SMALLEST = 1e-12


def placements(
    shape: Shape, cell: tuple[int, int], assignment: str, cells: tuple[int, int]
) -> list[tuple[int, int]]:
    """Top left corners, which may lie outside the map, of the placements that speak for a cell."""
    if assignment == "anchor":
        return [cell]
    covering = [(cell[0] - down, cell[1] - right) for down in range(shape[0]) for right in range(shape[1])]
    if assignment == "coverage":
        return covering
    before = [(side - 1) // 2 for side in shape]  # what `is_same` pads in front; it pads the rest behind
    computed = [
        (row - before[0], column - before[1]) for row in range(cells[0]) for column in range(cells[1])
    ]
    return [corner for corner in covering if corner in computed]


def clipped(corner: tuple[int, int], shape: Shape, cells: tuple[int, int]) -> tuple[int, int, int, int]:
    """(r0, c0, r1, c1), half open, of a placement's part on the map."""
    return (
        max(corner[0], 0),
        max(corner[1], 0),
        min(corner[0] + shape[0], cells[0]),
        min(corner[1] + shape[1], cells[1]),
    )


def distinct_boxes(shapes: Sequence[Shape], cells: tuple[int, int], assignment: str) -> set[tuple[int, ...]]:
    """The different clipped boxes of all placements."""
    return {
        clipped(corner, shape, cells)
        for shape in shapes
        for i in range(cells[0])
        for j in range(cells[1])
        for corner in placements(shape, (i, j), assignment, cells)
    }


def pixab_cam(
    score: Callable[[Array], Array],
    activation: Array,
    target: int,
    *,
    denominators: Literal["N1", "N2", "N3"],
    assignment: Literal["coverage", "same", "anchor"] = "coverage",
    boxes: Sequence[Shape] = ((1, 1), (1, 2), (2, 1), (2, 2)),
    perspectives: Literal["both", "deletion", "preservation"] = "both",
    probability: bool = True,
) -> Array:
    """The raw map (h, w) of an activation (K, h, w)."""
    activation = np.asarray(activation, np.float64)
    cells = (activation.shape[1], activation.shape[2])
    whole = float(score(activation)[target])
    nothing = float(score(np.zeros(activation.shape))[target])
    result = np.zeros(cells)
    if probability and whole < SMALLEST:
        return result
    if denominators == "N3":
        fall = gain = max(abs(whole - nothing), SMALLEST)
    else:
        fall = max(abs(whole), SMALLEST)
        gain = max(abs(nothing), SMALLEST) if denominators == "N2" else fall

    known: dict[tuple[int, ...], float] = {}

    def value(box: tuple[int, int, int, int]) -> float:
        if box not in known:
            r0, c0, r1, c1 = box
            without = activation.copy()
            without[:, r0:r1, c0:c1] = 0.0
            only = np.zeros(activation.shape)
            only[:, r0:r1, c0:c1] = activation[:, r0:r1, c0:c1]
            known[box] = 0.0
            if perspectives != "preservation":
                known[box] += (whole - float(score(without)[target])) / fall
            if perspectives != "deletion":
                known[box] += (float(score(only)[target]) - nothing) / gain
        return known[box]

    for i in range(cells[0]):
        for j in range(cells[1]):
            per_shape = []
            for shape in boxes:
                corners = placements(shape, (i, j), assignment, cells)
                per_shape.append(
                    sum(value(clipped(corner, shape, cells)) for corner in corners) / len(corners)
                )
            result[i, j] = sum(per_shape) / len(per_shape)
    return result
