"""Upsampling of an axis as a matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from camrt.export.allocation import zeros
from camrt.kernels.caches import cache_by_bytes
from camrt.kernels.resampling import axis_table

__all__ = ["cubic_matrix", "interpolation_matrix"]

SHARPNESS = -0.75  # of the cubic kernel, as OpenCV and torch have it


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


@cache_by_bytes()
def cubic_matrix(before: int, after: int) -> npt.NDArray[np.float64]:
    """(after, before): upsampling of an axis by cubic convolution, the outermost samples repeated.

    "Cubic Convolution Interpolation for Digital Image Processing" (Keys, IEEE TASSP 1981, equation 8), with
    half-pixel centres.
    """
    matrix = zeros((after, before), "interpolation of an axis")
    rows = np.arange(after)
    source = (rows + 0.5) * (before / after) - 0.5
    first = np.floor(source).astype(np.int64)
    for near in range(-1, 3):
        away = np.abs(source - first - near)
        inner = ((SHARPNESS + 2) * away - (SHARPNESS + 3)) * away**2 + 1
        outer = SHARPNESS * (((away - 5) * away + 8) * away - 4)
        np.add.at(matrix, (rows, (first + near).clip(0, before - 1)), np.where(away <= 1, inner, outer))
    matrix.flags.writeable = False
    return matrix
