"""Separable blurring of images."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from camrt.kernels import IMPLEMENTATION
from camrt.kernels.blur import reference
from camrt.kernels.checks import Floats, check_floats, thread_count
from camrt.kernels.dispatch import dispatched
from camrt.kernels.float_errors import ignore_float_errors

if IMPLEMENTATION == "native":
    from camrt.kernels import _native

__all__ = ["blur"]


@dispatched()
@ignore_float_errors
def blur(
    images: Floats, weights: ArrayLike, border: Literal["mirror", "zero"], *, threads: int | None = None
) -> Floats:
    """Weigh the neighbours in every column and then in every row by the same weights, in float64 arithmetic.

    Args:
        images: Shape (N, C, H, W).
        weights: An odd number of weights.
        border: What lies beyond the border: "mirror", the image mirrored at its outermost pixels, which are
            not repeated; or "zero".
        threads: Number of threads; all of the machine's when None.

    Returns:
        The blurred images, of the shape and type of images.

    Raises:
        ValueError: An argument has a wrong type or shape, or weights reach further than the mirrored image.
    """
    images = check_floats("images", images, "N C H W")
    weights = check_floats("weights", np.asarray(weights, np.float64), "any")
    if len(weights) % 2 == 0:
        raise ValueError(f"weights must be odd in number, got {len(weights)}")
    if border not in ("mirror", "zero"):
        raise ValueError(f"border must be 'mirror' or 'zero', got {border!r}")
    if border == "mirror" and len(weights) // 2 >= min(images.shape[2:]):
        raise ValueError(
            f"{len(weights)} weights reach beyond images of {images.shape[2]} x {images.shape[3]}"
        )
    out = np.empty_like(images)
    workers = thread_count(threads)
    if IMPLEMENTATION == "native":
        _native.blur(images, weights, border == "mirror", out, workers)
    else:
        reference.blur(images, weights, border, out)
    return out
