"""Ablation-CAM (Desai and Ramaswamy, WACV 2020): α_k = (Y − Y_−k) / Y and L = Σ_k α_k A_k.

Y_−k is the score with channel k of the activation set to zero. So that a negative score does not turn every
weight around, the division is by max(|Y|, 1e-8), which is the paper's for a positive score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ablation_cam", "weights"]

Array = npt.NDArray[Any]


def weights(score: Callable[[Array], Array], activation: Array, target: int) -> Array:
    """α (K,) of an activation (K, h, w)."""
    whole = float(score(activation)[target])
    result = np.zeros(len(activation))
    for k in range(len(activation)):
        altered = np.array(activation, np.float64)
        altered[k] = 0.0
        result[k] = (whole - float(score(altered)[target])) / max(abs(whole), 1e-8)
    return result


def ablation_cam(score: Callable[[Array], Array], activation: Array, target: int) -> Array:
    """The raw map (h, w)."""
    result = np.zeros(activation.shape[1:])
    for alpha, channel in zip(weights(score, activation, target), activation, strict=True):
        result += alpha * channel
    return result
