"""The definitions of `ablate_channels` and `ablate_boxes` in NumPy."""

from __future__ import annotations

import numpy as np

from camrt.kernels.checks import Floats, Ints
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["ablate_boxes", "ablate_channels"]


@ignore_float_errors
def ablate_channels(activations: Floats, batch_index: Ints, channel: Ints, out: Floats) -> None:
    """Compute what `camrt.kernels.ablate.ablate_channels` documents, unchecked."""
    np.take(activations, batch_index, axis=0, out=out)
    out[np.arange(len(batch_index)), channel] = 0


@ignore_float_errors
def ablate_boxes(activations: Floats, batch_index: Ints, boxes: Ints, out: Floats, *, keep: bool) -> None:
    """Compute what `camrt.kernels.ablate.ablate_boxes` documents, unchecked."""
    for b, (n, (r0, c0, r1, c1)) in enumerate(zip(batch_index, boxes, strict=True)):
        out[b] = 0 if keep else activations[n]
        out[b, :, r0:r1, c0:c1] = activations[n, :, r0:r1, c0:c1] if keep else 0
