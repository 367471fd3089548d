"""The definition of `weighted_map` in NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from camrt.kernels.checks import Floats
from camrt.kernels.float_errors import ignore_float_errors
from camrt.kernels.saliency import reference as saliency

__all__ = ["weighted_map", "weighted_sum"]


@ignore_float_errors
def weighted_map(
    activations: Floats,
    weights: Floats,
    size: tuple[int, int],
    *,
    mode: str,
    normalisation: str,
    relu: bool,
    align_corners: bool,
) -> tuple[Floats, NDArray[np.uint8], Floats]:
    """Compute what `camrt.kernels.weighted_map.weighted_map` documents, unchecked."""
    raw = weighted_sum(activations, weights)
    maps, flags = saliency.saliency(
        raw.reshape(-1, *raw.shape[2:]),
        size,
        mode=mode,
        normalisation=normalisation,
        relu=relu,
        align_corners=align_corners,
    )
    return maps.reshape(*raw.shape[:2], *size), flags.reshape(raw.shape[:2]), raw


@ignore_float_errors
def weighted_sum(activations: Floats, weights: Floats) -> Floats:
    """Σ_k weights[n, t, k] · activations[n, k]: (N, T, h, w)."""
    n, k, h, w = activations.shape
    raw: Floats = np.matmul(weights, activations.reshape(n, k, h * w))
    return raw.reshape(*weights.shape[:2], h, w)
