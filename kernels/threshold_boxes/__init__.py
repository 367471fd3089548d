"""The boxes around what lies above a threshold, for every threshold of an 8-bit map at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camrt.kernels import IMPLEMENTATION
from camrt.kernels.checks import Ints, check_indices, thread_count
from camrt.kernels.float_errors import ignore_float_errors
from camrt.kernels.threshold_boxes import reference
from camrt.kernels.threshold_boxes.reference import LEVELS

if IMPLEMENTATION == "native":
    from camrt.kernels import _native

__all__ = ["LEVELS", "best_overlaps", "largest_boxes"]

MAX_SIDE = (1 << 15) - 1
MAX_COORDINATE = 1 << 24  # a box's coordinate, so that areas fit into 64 bits with room to spare


@ignore_float_errors
def best_overlaps(
    maps: NDArray[np.uint8], boxes: ArrayLike, owner: ArrayLike, *, threads: int | None = None
) -> NDArray[np.float64]:
    """The best overlap between the contours of {map > t} and a map's boxes, for every t.

    A contour is the outer border of a component of {map > t}, whose pixels touch also at corners, or that of
    a hole in one, a component of {map <= t} whose pixels touch at edges and which does not reach the map's
    border. The border of a hole runs through the pixels around it. The box of a contour from column x and
    row y, w wide and h high, is (x, y, min(x + w, W − 1), min(y + h, H − 1)), and without any contour there
    is one box (0, 0, 0, 0). The first and last pixels belong to a box, in its area and in intersections.

    Args:
        maps: uint8 (N, H, W).
        boxes: (B, 4) (x0, y0, x1, y1), whole numbers, x0 <= x1 and y0 <= y1.
        owner: (B,) which map each box belongs to.
        threads: Number of threads; all of the machine's when None.

    Returns:
        float64 (N, 256): intersection over union, the largest over all contours and boxes; 0 without boxes.

    Raises:
        ValueError: An argument has a wrong type, shape or value.
    """
    maps = check_maps(maps)
    given = np.asarray(boxes)
    if given.size == 0:
        given = np.zeros((0, 4), np.int64)
    if given.ndim != 2 or given.shape[1] != 4 or given.dtype.kind not in "iu":
        raise ValueError(f"boxes must be whole numbers of shape (B, 4), got {given.dtype} {given.shape}")
    rows = np.ascontiguousarray(given, dtype=np.int64)
    if (rows[:, :2] > rows[:, 2:]).any() or (np.abs(rows) > MAX_COORDINATE).any():
        raise ValueError("boxes must be (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1, near the map")
    owners = check_indices("owner", owner, len(maps), (len(rows),))
    workers = thread_count(threads)
    if IMPLEMENTATION != "native":
        return reference.best_overlaps(maps, rows, owners)
    order = np.argsort(owners, kind="stable")
    starts = np.searchsorted(owners[order], np.arange(len(maps) + 1)).astype(np.int64)
    best = np.empty((len(maps), LEVELS))
    _native.best_overlaps(maps, np.ascontiguousarray(rows[order]), starts, best, workers)
    return best


@ignore_float_errors
def largest_boxes(maps: NDArray[np.uint8], *, threads: int | None = None) -> Ints:
    """The box of the contour of {map > t} that encloses the largest area, for every t.

    Areas are those of polygons through the middles of the border's pixels; of several equal ones the contour
    whose first pixel is the last in row-major order counts.

    Args:
        maps: uint8 (N, H, W).
        threads: Number of threads; all of the machine's when None.

    Returns:
        int64 (N, 256, 4), boxes as in `best_overlaps`.

    Raises:
        ValueError: An argument has a wrong type or shape.
    """
    maps = check_maps(maps)
    workers = thread_count(threads)
    if IMPLEMENTATION != "native":
        return reference.largest_boxes(maps)
    largest = np.empty((len(maps), LEVELS, 4), np.int64)
    _native.largest_boxes(maps, largest, workers)
    return largest


def check_maps(maps: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Contiguous maps.

    Raises:
        ValueError: They are not uint8 (N, H, W), or have no pixels.
    """
    if not isinstance(maps, np.ndarray) or maps.dtype != np.uint8 or maps.ndim != 3 or 0 in maps.shape[1:]:
        raise ValueError(
            f"maps must be uint8 of shape (N, H, W), got "
            f"{getattr(maps, 'dtype', type(maps).__name__)} {getattr(maps, 'shape', '')}"
        )
    if max(maps.shape[1:]) > MAX_SIDE:
        raise ValueError(f"maps of {maps.shape[1]} x {maps.shape[2]} pixels are too large")
    return np.ascontiguousarray(maps)
