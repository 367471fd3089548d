"""FEM (Fuad et al., IPTA 2020), cell by cell in float64.

B_k marks the cells of channel k that lie at least so many standard deviations above its mean. The paper's map
is Σ_k mean(A_k)·B_k; the pytorch-grad-cam package's Σ_k mean(B_k)·A_k, with cells at the threshold left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["fem"]

Array = npt.NDArray[Any]


def fem(activation: Array, *, definition: str = "paper", sigmas: float = 2.0) -> Array:
    """The raw map (h, w) of an activation (K, h, w)."""
    _, height, width = activation.shape
    result = np.zeros((height, width))
    for channel in activation.astype(np.float64):
        cells = channel.reshape(-1)
        mean = sum(cells) / len(cells)
        spread = (sum((cell - mean) ** 2 for cell in cells) / len(cells)) ** 0.5
        marks = np.zeros((height, width))
        for i in range(height):
            for j in range(width):
                away = channel[i, j] - mean - sigmas * spread
                marks[i, j] = away > 0 or (away == 0 and definition == "paper")
        result += mean * marks if definition == "paper" else marks.mean() * channel
    return result
