"""Eigen-CAM (Muhammad and Yeasin, IJCNN 2020): the activation on its first principal direction.

With the cells as rows and the channels as columns, M = U S Vᵀ, the map is M·v₁. A singular vector's sign is
arbitrary: with centred columns the map's entry of largest magnitude is made positive (the first in row-major
order of equal ones), without centring its sum is made non-negative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["eigen_cam", "eigen_grad_cam", "kernel_pca_cam", "seg_eigen_cam"]

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


def eigen_grad_cam(gradient: Array, activation: Array) -> Array:
    """Eigen-Grad-CAM: the same of the product of gradient and activation, centred."""
    return eigen_cam(np.array([g * a for g, a in zip(gradient, activation, strict=True)]))


def seg_eigen_cam(gradient: Array, activation: Array) -> Array:
    """Seg-Eigen-CAM (Chung and Ying, 2025): the same of |G|·A, centred."""
    return eigen_cam(np.array([np.abs(g) * a for g, a in zip(gradient, activation, strict=True)]))


def kernel_pca_cam(activation: Array, kernel: Callable[[Array, Array], float]) -> Array:
    """KPCA-CAM: √λ₁·u₁ of the centred matrix of a kernel between cells, whose channels are centred first."""
    _, height, width = activation.shape
    cells = [activation[:, i, j] for i in range(height) for j in range(width)]
    middle = sum(cells) / len(cells)
    cells = [cell - middle for cell in cells]
    matrix = np.array([[kernel(x, y) for y in cells] for x in cells])
    rows = matrix.mean(axis=1)
    for i in range(len(cells)):
        for j in range(len(cells)):
            matrix[i, j] += rows.mean() - rows[i] - rows[j]
    values, vectors = np.linalg.eig((matrix + matrix.T) / 2)
    first = int(np.argmax(values.real))
    projected = np.sqrt(max(values.real[first], 0.0)) * vectors[:, first].real
    projected *= np.sign(projected[np.argmax(np.abs(projected))]) or 1.0
    return np.asarray(projected.reshape(height, width))
