"""CAM and Activation-CAM.

CAM (Zhou et al., CVPR 2016; "Keep CALM and Improve Visual Feature Attribution", ICCV 2021): the class map is
f[c]_ij = Σ_k W[c, k] A_kij + b[c], and the logit its mean over the cells.

Activation-CAM ("Pixab-CAM: Attend Pixel, not Channel"): L = Σ_k A_k.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["activation_map", "class_map"]

Array = npt.NDArray[Any]


def class_map(activation: Array, weight: Array, bias: Array, target: int) -> Array:
    """Raw CAM (h, w) of an activation (K, h, w) and a linear layer (C, K), (C,)."""
    channels, height, width = activation.shape
    result = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            total = float(bias[target])
            for k in range(channels):
                total += float(weight[target, k]) * float(activation[k, i, j])
            result[i, j] = total
    return result


def activation_map(activation: Array) -> Array:
    """Raw Activation-CAM (h, w) of an activation (K, h, w)."""
    channels, height, width = activation.shape
    result = np.zeros((height, width))
    for k in range(channels):
        for i in range(height):
            for j in range(width):
                result[i, j] += float(activation[k, i, j])
    return result
