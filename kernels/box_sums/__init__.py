"""Sums of a grid of vectors over boxes of cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from camrt.kernels import IMPLEMENTATION
from camrt.kernels.box_sums import reference
from camrt.kernels.checks import Floats, check_boxes, check_floats, thread_count
from camrt.kernels.dispatch import dispatched
from camrt.kernels.float_errors import ignore_float_errors

if IMPLEMENTATION == "native":
    from camrt.kernels import _native

__all__ = ["box_sums"]


@dispatched()
@ignore_float_errors
def box_sums(cells: Floats, boxes: ArrayLike, *, threads: int | None = None) -> Floats:
    """Sum the cells of every box, in float64 arithmetic.

    Args:
        cells: One vector a cell, shape (N, h, w, F).
        boxes: Half-open boxes (r0, c0, r1, c1), shape (P, 4), integers.
        threads: Number of threads; all of the machine's when None.

    Returns:
        The sums, shape (N, P, F), of the type of cells.

    Raises:
        ValueError: An argument has a wrong type or shape, or a box is empty or leaves the map.
    """
    cells = check_floats("cells", cells, "N h w F")
    boxes = check_boxes(boxes, *cells.shape[1:3])
    out = np.empty((cells.shape[0], len(boxes), cells.shape[3]), cells.dtype)
    workers = thread_count(threads)
    if IMPLEMENTATION == "native":
        _native.box_sums(cells, boxes, out, workers)
    else:
        reference.box_sums(cells, boxes, out)
    return out
