"""CALM in float64, from the formulas of the paper, in probabilities and with loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["em_loss", "joint", "ml_loss"]

Array = npt.NDArray[np.float64]


def joint(f: Any, u: Any) -> Array:
    """p(y, z|x), (N, C, h, w), of class maps f (N, C, h, w) and attention u (N, 1, h, w): equations 3, 4."""
    f, u = np.asarray(f, np.float64), np.asarray(u, np.float64)
    answer = np.zeros_like(f)
    for n in range(len(f)):
        attention = np.log1p(np.exp(u[n, 0]))
        for i in range(f.shape[2]):
            for j in range(f.shape[3]):
                exponentials = np.exp(f[n, :, i, j] - f[n, :, i, j].max())
                answer[n, :, i, j] = exponentials / exponentials.sum() * attention[i, j] / attention.sum()
    return answer


def ml_loss(p: Array, labels: Any) -> float:
    """−log Σ_z p(y,z|x), mean over images: equation 6."""
    return float(np.mean([-np.log(p[n, y].sum()) for n, y in enumerate(labels)]))


def em_loss(p: Array, labels: Any, teacher: Array | None = None) -> float:
    """−Σ_z p'(z|x,y) log p(y,z|x), mean over images: equations 7 and 8."""
    of = p if teacher is None else teacher
    return float(
        np.mean([-((of[n, y] / of[n, y].sum()) * np.log(p[n, y])).sum() for n, y in enumerate(labels)])
    )
