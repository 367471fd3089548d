"""From a raw map to a saliency map, in float64, by loops.

- native: L = relu(map); L / max L, or (L − min L) / (max L − min L); bilinear upsampling with half-pixel
  centres.
- library: relu; minus the minimum, divided by the maximum + 1e-7; bilinear resizing; the same once more.

Degenerate maps, one policy: a map with NaN or infinity, a constant map, and a map without a positive value
(where negative values are cut off) are all zeros.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["library", "native", "upsampled"]

Array = npt.NDArray[Any]


def upsampled(values: Array, size: tuple[int, int], *, aligned: bool = False) -> Array:
    """Bilinear interpolation of a map (h, w) to (H, W), without antialiasing.

    Output i lies at (i + 1/2) n/N − 1/2 between the inputs, or, with aligned corners, at i (n−1)/(N−1).
    """
    height, width = values.shape
    result = np.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            total = 0.0
            for row, row_share in _neighbours(i, height, size[0], aligned):
                for column, column_share in _neighbours(j, width, size[1], aligned):
                    total += row_share * column_share * float(values[row, column])
            result[i, j] = total
    return result


def _neighbours(i: int, inputs: int, outputs: int, aligned: bool) -> list[tuple[int, float]]:
    if aligned:
        at = i * (inputs - 1) / (outputs - 1) if outputs > 1 else 0.0
    else:
        at = (i + 0.5) * inputs / outputs - 0.5
    at = min(max(at, 0.0), inputs - 1.0)
    low = math.floor(at)
    return [(low, 1.0 - (at - low)), (min(low + 1, inputs - 1), at - low)]


def native(raw: Array, size: tuple[int, int], *, minmax: bool = False, rectify: bool = True) -> Array:
    """The saliency map (H, W) of a raw map (h, w)."""
    raw = np.asarray(raw, np.float64)
    if _says_nothing(raw, rectify or not minmax):
        return np.zeros(size)
    low = np.maximum(raw, 0.0) if rectify else raw
    low = (low - low.min()) / (low.max() - low.min()) if minmax else low / low.max()
    return upsampled(low, size)


def library(raw: Array, size: tuple[int, int]) -> Array:
    """The saliency map (H, W) of a raw map (h, w), as the pytorch-grad-cam package makes it."""
    raw = np.asarray(raw, np.float64)
    if _says_nothing(raw, True):
        return np.zeros(size)
    low = np.maximum(raw, 0.0)
    low = low - low.min()
    low = low / (low.max() + 1e-7)
    high = np.maximum(upsampled(low, size), 0.0)
    high = high - high.min()
    return np.asarray(high / (high.max() + 1e-7))


def _says_nothing(raw: Array, needs_positive: bool) -> bool:
    if not np.isfinite(raw).all() or raw.max() == raw.min():
        return True
    return bool(needs_positive and raw.max() <= 0)
