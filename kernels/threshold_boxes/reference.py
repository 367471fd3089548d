"""The definition of `best_overlaps` and `largest_boxes` in NumPy: every threshold by itself."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camrt.kernels.checks import Ints
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["LEVELS", "best_overlaps", "largest_boxes"]

LEVELS = 256
_EIGHT = tuple((r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0))
_FOUR = ((-1, 0), (0, -1), (0, 1), (1, 0))

Bools = NDArray[np.bool_]


@ignore_float_errors
def best_overlaps(maps: NDArray[np.uint8], boxes: Ints, owner: Ints) -> NDArray[np.float64]:
    """Compute what `camrt.kernels.threshold_boxes.best_overlaps` documents, unchecked."""
    best = np.zeros((len(maps), LEVELS))
    for n, levels in enumerate(maps):
        own = boxes[owner == n]
        for level in range(LEVELS):
            found = contours(levels > level)
            best[n, level] = max(
                (box_iou(box, other) for box in found for other in own.tolist()), default=0.0
            )
    return best


@ignore_float_errors
def largest_boxes(maps: NDArray[np.uint8]) -> Ints:
    """Compute what `camrt.kernels.threshold_boxes.largest_boxes` documents, unchecked."""
    largest = np.zeros((len(maps), LEVELS, 4), np.int64)
    for n, levels in enumerate(maps):
        for level in range(LEVELS):
            largest[n, level] = largest_box(levels > level)
    return largest


def contours(above: Bools) -> list[tuple[int, int, int, int]]:
    """The boxes (x0, y0, x1, y1) of all contours, outer ones and those of holes; one of zeros for none."""
    height, width = above.shape
    boxes = [enlarge(spans, above.shape, 0) for spans in components(above, _EIGHT)]
    for rows, columns in components(~above, _FOUR):
        if rows[0] > 0 and columns[0] > 0 and rows[1] < height - 1 and columns[1] < width - 1:
            boxes.append(enlarge((rows, columns), above.shape, 1))
    return boxes or [(0, 0, 0, 0)]


def largest_box(above: Bools) -> tuple[int, int, int, int]:
    """The box of the outer contour that encloses the largest area, the last in row-major order of several."""
    outside = np.zeros(np.add(above.shape, 2), np.bool_)
    flood_fill(np.pad(~above, 1, constant_values=True), (0, 0), outside, _FOUR)
    filled = ~outside[1:-1, 1:-1]
    best, chosen = -1.0, (0, 0, 0, 0)
    seen = np.zeros(above.shape, np.bool_)
    for start in zip(*np.nonzero(filled), strict=True):
        if seen[start]:
            continue
        alone = np.zeros(above.shape, np.bool_)
        spans = flood_fill(filled, start, alone, _EIGHT)
        seen |= alone
        four: Any = 0
        for r, c in _CORNERS:
            four = four + alone[r : r + above.shape[0] - 1, c : c + above.shape[1] - 1].astype(np.int64)
        area = float(np.sum(four == 4) + 0.5 * np.sum(four == 3))
        if area >= best:
            best, chosen = area, enlarge(spans, above.shape, 0)
    return chosen


_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


def components(mask: Bools, steps: Any) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """First and last row, first and last column of each connected component."""
    seen = np.zeros(mask.shape, np.bool_)
    return [
        flood_fill(mask, start, seen, steps)
        for start in zip(*np.nonzero(mask), strict=True)
        if not seen[start]
    ]


def flood_fill(mask: Bools, start: Any, seen: Bools, steps: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """Marks the component of a place, and gives its first and last rows and columns."""
    waiting = deque([start])
    seen[start] = True
    rows, columns = [], []
    while waiting:
        r, c = waiting.popleft()
        rows.append(int(r))
        columns.append(int(c))
        for down, right in steps:
            place = (r + down, c + right)
            inside = 0 <= place[0] < mask.shape[0] and 0 <= place[1] < mask.shape[1]
            if inside and mask[place] and not seen[place]:
                seen[place] = True
                waiting.append(place)
    return (min(rows), max(rows)), (min(columns), max(columns))


def enlarge(spans: Any, shape: tuple[int, ...], by: int) -> tuple[int, int, int, int]:
    """The contour's box as the benchmark has it: one pixel larger than tight on the right and below."""
    (top, bottom), (left, right) = spans
    return left - by, top - by, min(right + by + 1, shape[1] - 1), min(bottom + by + 1, shape[0] - 1)


def box_iou(a: Any, b: Any) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1) whose last pixels belong to them."""
    wide = max(0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    tall = max(0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    size = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return float(wide * tall / (size[0] + size[1] - wide * tall))
