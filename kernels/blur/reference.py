"""The definition of `blur` in NumPy."""

from __future__ import annotations

import numpy as np

from camrt.kernels.checks import Floats
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["blur"]


@ignore_float_errors
def blur(images: Floats, weights: Floats, border: str, out: Floats) -> None:
    """Compute what `camrt.kernels.blur.blur` documents, unchecked."""
    reach = len(weights) // 2
    result = images.astype(np.float64)
    for axis in (2, 3):
        padding = [(reach, reach) if place == axis else (0, 0) for place in range(4)]
        padded = np.pad(result, padding, mode="reflect" if border == "mirror" else "constant")
        length = result.shape[axis]
        summed = np.zeros_like(result)
        for offset, weight in enumerate(weights):
            summed += weight * np.take(padded, range(offset, offset + length), axis=axis)
        result = summed
    out[...] = result
