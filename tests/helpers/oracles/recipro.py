"""Recipro-CAM (Byun and Lee, 2022): the score of what is left of an activation around each cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["kept_around", "recipro_cam"]

Array = npt.NDArray[Any]


def kept_around(activation: Array, row: int, column: int, *, gaussian: bool) -> Array:
    """The activation (K, h, w) with nothing but a cell kept, or a bell around it."""
    result = np.zeros_like(activation)
    _, height, width = activation.shape
    for i in range(height):
        for j in range(width):
            down, right = abs(i - row), abs(j - column)
            share = {0: 1.0}.get(down + right, 0.0)
            if gaussian:
                share = 0.25 * 0.5**down * 0.5**right if max(down, right) <= 1 else 0.0
            result[:, i, j] = share * activation[:, i, j]
    return result


def recipro_cam(
    score: Callable[[Array], float], activation: Array, *, gaussian: bool = False, less_empty: bool = True
) -> Array:
    """The raw map (h, w), less the score of nothing at all."""
    _, height, width = activation.shape
    empty = score(np.zeros_like(activation)) if less_empty else 0.0
    return np.array(
        [
            [score(kept_around(activation, i, j, gaussian=gaussian)) - empty for j in range(width)]
            for i in range(height)
        ]
    )
