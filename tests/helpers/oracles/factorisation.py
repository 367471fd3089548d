"""Nonnegative matrix factorisation by the multiplicative rule of Lee and Seung (NIPS 2000), in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["factor"]


def factor(matrix: Any, count: int, steps: int = 4000, seed: int = 0) -> tuple[Any, Any]:
    """H (rows, count) and W (count, columns) whose product comes near a matrix that is nowhere negative."""
    rng = np.random.default_rng(seed)
    wide = np.asarray(matrix, np.float64)
    left, right = rng.random((wide.shape[0], count)) + 0.1, rng.random((count, wide.shape[1])) + 0.1
    for _ in range(steps):
        right *= (left.T @ wide) / np.maximum(left.T @ left @ right, 1e-300)
        left *= (wide @ right.T) / np.maximum(left @ right @ right.T, 1e-300)
    return left, right
