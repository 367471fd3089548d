"""Bilinear upsampling of an axis as a matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from camrt.export.allocation import zeros
from camrt.kernels.caches import cache_by_bytes
from camrt.kernels.resampling import axis_table

__all__ = ["interpolation_matrix"]


@cache_by_bytes()
def interpolation_matrix(before: int, after: int, begin: float, end: float) -> npt.NDArray[np.float64]:
    """(after, before): bilinear upsampling of an axis to the pixels from `begin` to `end` of another."""
    lower, upper, t = axis_table(before, after, False, begin, end)
    matrix = zeros((after, before), "interpolation of an axis")
    rows = np.arange(after)
    np.add.at(matrix, (rows, lower), 1 - t)
    np.add.at(matrix, (rows, upper), t)
    matrix.flags.writeable = False
    return matrix
