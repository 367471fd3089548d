"""Eigen-CAM (Muhammad and Yeasin, IJCNN 2020): the activation on its first principal direction.

With the cells as rows and the channels as columns, M = U S Vᵀ, the map is M·v₁. A singular vector's sign is
arbitrary: with centred columns the map's entry of largest magnitude is made positive (the first in row-major
order of equal ones), without centring its sum is made non-negative.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["eigen_cam"]

Array = npt.NDArray[Any]


def eigen_cam(activation: Array, *, centred: bool = True) -> Array:
    """The raw map (h, w) of an activation (K, h, w)."""
    channels, height, width = activation.shape
    matrix = np.zeros((height * width, channels))
    for k in range(channels):
        for i in range(height):
            for j in range(width):
                matrix[i * width + j, k] = activation[k, i, j]
    if centred:
        for k in range(channels):
            matrix[:, k] -= matrix[:, k].mean()
    direction = np.linalg.svd(matrix, full_matrices=False)[2][0]
    projected = matrix @ direction
    if centred:
        largest = max(abs(value) for value in projected)
        deciding = next(value for value in projected if abs(value) >= largest * (1 - 1e-12))
    else:
        deciding = projected.sum()
    return np.asarray((projected if deciding >= 0 else -projected).reshape(height, width))
