"""The definitions of `first_layer_boxes` and `first_layer_channels` in NumPy."""

from __future__ import annotations

import numpy as np

from camrt.kernels.checks import Floats, Ints
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["first_layer_boxes", "first_layer_channels"]


@ignore_float_errors
def first_layer_boxes(
    start: Floats, partial: Floats, batch_index: Ints, boxes: Ints, out: Floats, *, keep: bool
) -> None:
    """Compute what `camrt.kernels.first_layer_difference.first_layer_boxes` documents, unchecked."""
    for b, (n, (r0, c0, r1, c1)) in enumerate(zip(batch_index, boxes, strict=True)):
        held = partial[n, r0:r1, c0:c1].sum(axis=(0, 1), dtype=np.float64)
        out[b] = start[n] + held if keep else start[n] - held


@ignore_float_errors
def first_layer_channels(
    start: Floats, partial: Floats, batch_index: Ints, channel: Ints, out: Floats
) -> None:
    """Compute what `camrt.kernels.first_layer_difference.first_layer_channels` documents, unchecked."""
    out[...] = start[batch_index].astype(np.float64) - partial[batch_index, channel]
