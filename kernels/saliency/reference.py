"""The definition of `saliency` in NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from camrt.kernels.checks import Floats
from camrt.kernels.float_errors import ignore_float_errors
from camrt.kernels.resampling import bilinear

__all__ = ["saliency"]


@ignore_float_errors
def saliency(
    raw: Floats, size: tuple[int, int], *, mode: str, normalisation: str, relu: bool, align_corners: bool
) -> tuple[Floats, NDArray[np.uint8]]:
    """Compute what `camrt.kernels.saliency.saliency` documents, unchecked."""
    maps = np.zeros((len(raw), *size), raw.dtype)
    flags = np.zeros(len(raw), np.uint8)
    by_max = mode == "native" and normalisation == "max"
    for m, one in enumerate(raw):
        flags[m] = _flag(one, relu, by_max)
        if flags[m]:
            continue
        low = np.maximum(one, 0) if relu else one
        if mode == "library":
            maps[m] = _rescaled(bilinear(_rescaled(low), size, align_corners))
            continue
        low = low / low.max() if by_max else (low - low.min()) / (low.max() - low.min())
        maps[m] = np.clip(bilinear(low, size, align_corners), 0, 1)
    return maps, flags


def _flag(one: Floats, relu: bool, by_max: bool) -> int:
    low, high = one.min(), one.max()
    if not np.isfinite(high - low):
        return 3
    if low == high:
        return 1
    if (relu or by_max) and high <= 0:
        return 2
    divides = relu or not by_max or bool(np.isfinite(low / high))
    return 0 if divides else 3


def _rescaled(values: Floats) -> Floats:
    values = values - values.min()
    result: Floats = values / (values.max() + values.dtype.type(1e-7))
    return result
