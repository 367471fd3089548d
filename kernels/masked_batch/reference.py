"""The definition of `masked_batch` in NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from camrt.kernels.checks import Floats, Ints
from camrt.kernels.float_errors import ignore_float_errors
from camrt.kernels.resampling import bilinear

__all__ = ["masked_batch"]


@ignore_float_errors
def masked_batch(
    activations: Floats,
    images: Floats,
    batch_index: Ints,
    channel: Ints,
    out: Floats,
    *,
    order: str,
    align_corners: bool,
    epsilon: float,
) -> NDArray[np.bool_]:
    """Compute what `camrt.kernels.masked_batch.masked_batch` documents, unchecked."""
    size = (images.shape[2], images.shape[3])
    constant = np.zeros(len(batch_index), dtype=np.bool_)
    for b, (n, k) in enumerate(zip(batch_index, channel, strict=True)):
        mask = _mask(activations[n, k], size, order, align_corners, epsilon)
        constant[b] = mask is None
        out[b] = 0 if mask is None else images[n] * mask
    return constant


def _mask(a: Floats, size: tuple[int, int], order: str, align_corners: bool, epsilon: float) -> Floats | None:
    spread = a.max() - a.min()
    if not np.isfinite(spread) or spread == 0:
        return None
    values = bilinear(a, size, align_corners) if order == "upsample-first" else a
    low = values.min()
    spread = values.max() - low
    if spread == 0:
        return None
    values = (values - low) / (spread + a.dtype.type(epsilon))
    return values if order == "upsample-first" else bilinear(values, size, align_corners)
