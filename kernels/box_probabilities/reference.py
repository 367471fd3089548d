"""The definition of `box_probabilities` in NumPy, in float64 throughout."""

from __future__ import annotations

import numpy as np

from camrt.kernels.checks import Floats, Ints
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["box_probabilities"]


@ignore_float_errors
def box_probabilities(
    contributions: Floats, logits: Floats, boxes: Ints, targets: Ints, *, sign: int
) -> Floats:
    """Compute what `camrt.kernels.box_probabilities.box_probabilities` documents, unchecked."""
    out = np.empty((len(logits), len(boxes), targets.shape[1]), contributions.dtype)
    for p, (r0, c0, r1, c1) in enumerate(boxes):
        total = contributions[:, r0:r1, c0:c1].sum(axis=(1, 2), dtype=np.float64)
        altered = logits + sign * total
        powers = np.exp(altered - altered.max(axis=1, keepdims=True))
        softmax = powers / powers.sum(axis=1, keepdims=True)
        out[:, p] = np.take_along_axis(softmax, targets, axis=1)
    return out
