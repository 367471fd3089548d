"""Images under masks made of upsampled, normalised activations: the inputs of Score-CAM."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camrt.kernels import IMPLEMENTATION
from camrt.kernels.checks import (
    Floats,
    check_floats,
    check_indices,
    check_map_size,
    check_output,
    thread_count,
)
from camrt.kernels.dispatch import dispatched
from camrt.kernels.float_errors import ignore_float_errors
from camrt.kernels.masked_batch import reference

if IMPLEMENTATION == "native":
    from camrt.kernels import _native

__all__ = ["masked_batch"]


@dispatched()
@ignore_float_errors
def masked_batch(
    activations: Floats,
    images: Floats,
    batch_index: ArrayLike,
    channel: ArrayLike,
    out: Floats,
    *,
    order: Literal["upsample-first", "normalise-first"] = "upsample-first",
    align_corners: bool = False,
    epsilon: float = 0.0,
    threads: int | None = None,
) -> NDArray[np.bool_]:
    """Write out[b] = images[batch_index[b]] × m_b, where m_b is a mask made of one activation map.

    With a = activations[batch_index[b], channel[b]] and up() bilinear upsampling to H × W, the mask is

    - "upsample-first": u = up(a); m = (u - min u) / (max u - min u + epsilon), over the H × W samples;
    - "normalise-first": m = up((a - min a) / (max a - min a + epsilon)), over the h × w cells.

    A constant map, a map with NaN or infinity, and a map whose range overflows have a mask of zeros.

    Args:
        activations: A, shape (N, K, h, w).
        images: Shape (N, C, H, W), of the same type.
        batch_index: Which image, shape (B,), integers.
        channel: Which channel of its activations, shape (B,), integers.
        out: Written, shape (B, C, H, W), C-contiguous, of the same type.
        order: Which of the two masks.
        align_corners: The convention of the upsampling; see `camrt.kernels.resampling`.
        epsilon: Added to the range before dividing, not negative.
        threads: Number of threads; all of the machine's when None.

    Returns:
        Shape (B,): whether the mask was zeros by the rule above.

    Raises:
        ValueError: An argument has a wrong type, shape, layout or value.
    """
    activations = check_floats("activations", activations, "N K h w")
    images = check_floats("images", images, "N C H W", activations.dtype)
    n, k, h, w = activations.shape
    if images.shape[0] != n:
        raise ValueError(f"images must hold {n} images like activations, got {images.shape[0]}")
    check_map_size("activations", h, w)
    check_map_size("images", *images.shape[2:])
    batch_index = check_indices("batch_index", batch_index, n, (-1,))
    channel = check_indices("channel", channel, k, batch_index.shape)
    check_output("out", out, (len(batch_index), *images.shape[1:]), activations.dtype, activations, images)
    if order not in ("upsample-first", "normalise-first"):
        raise ValueError(f"order must be 'upsample-first' or 'normalise-first', got {order!r}")
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"epsilon must be finite and not negative, got {epsilon}")
    workers = thread_count(threads)
    if IMPLEMENTATION == "native":
        return _native.masked_batch(
            activations, images, batch_index, channel, out,
            order == "normalise-first", align_corners, epsilon, workers,
        )  # fmt: skip
    return reference.masked_batch(
        activations,
        images,
        batch_index,
        channel,
        out,
        order=order,
        align_corners=align_corners,
        epsilon=epsilon,
    )
