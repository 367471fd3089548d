"""From activations and channel weights to saliency maps: Σ_k w_k · A_k, then `camrt.kernels.saliency`."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from camrt.kernels.checks import Floats, check_floats, check_map_size
from camrt.kernels.dispatch import dispatched
from camrt.kernels.float_errors import ignore_float_errors
from camrt.kernels.saliency import saliency
from camrt.kernels.weighted_map import reference

__all__ = ["weighted_map"]


@dispatched()
@ignore_float_errors
def weighted_map(
    activations: Floats,
    weights: Floats,
    size: tuple[int, int],
    *,
    mode: Literal["native", "library"] = "native",
    normalisation: Literal["max", "minmax"] = "max",
    relu: bool = True,
    align_corners: bool = False,
    threads: int | None = None,
) -> tuple[Floats, NDArray[np.uint8], Floats]:
    """Sum the channels of activations with weights, and make saliency maps of the sums.

    - raw[n, t] = Σ_k weights[n, t, k] · activations[n, k]
    - maps, flags: what `camrt.kernels.saliency.saliency` makes of raw

    Args:
        activations: A, shape (N, K, h, w).
        weights: Shape (N, T, K), of the same type: T targets of each image.
        size: The size (H, W) of the images.
        mode: See `camrt.kernels.saliency.saliency`.
        normalisation: See there.
        relu: See there.
        align_corners: The convention of the upsampling; see `camrt.kernels.resampling`.
        threads: Number of threads; all of the machine's when None.

    Returns:
        The maps, shape (N, T, H, W), of the type of activations; one `MapFlag` value each, shape (N, T); the
        sums, shape (N, T, h, w), of the type of activations.

    Raises:
        ValueError: An argument has a wrong type, shape or value.
    """
    activations = check_floats("activations", activations, "N K h w")
    n, k, h, w = activations.shape
    check_map_size("activations", h, w)
    weights = check_floats("weights", weights, "N T K", activations.dtype)
    if weights.shape[0] != n or weights.shape[2] != k:
        raise ValueError(f"weights must have shape ({n}, T, {k}) like activations, got {weights.shape}")
    raw = reference.weighted_sum(activations, weights)
    maps, flags = saliency(
        raw.reshape(-1, h, w),
        size,
        mode=mode,
        normalisation=normalisation,
        relu=relu,
        align_corners=align_corners,
        threads=threads,
    )
    return maps.reshape(*raw.shape[:2], *size), flags.reshape(raw.shape[:2]), raw
