"""The definition of `box_scores` in NumPy, in float64 throughout."""

from __future__ import annotations

import numpy as np

from camrt.kernels.box_probabilities import reference
from camrt.kernels.checks import Floats, Ints
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["box_scores"]


@ignore_float_errors
def box_scores(
    features: Floats,
    weight: Floats,
    logits: Floats,
    empty_logits: Floats,
    boxes: Ints,
    targets: Ints,
    *,
    scale: float,
) -> tuple[Floats, Floats]:
    """Compute what `camrt.kernels.box_scores.box_scores` documents, unchecked and in float64."""
    cells = scale * features.transpose(0, 2, 3, 1).astype(np.float64)
    contributions = cells @ weight.T.astype(np.float64)
    return (
        reference.box_probabilities(contributions, logits, boxes, targets, sign=-1),
        reference.box_probabilities(contributions, empty_logits, boxes, targets, sign=+1),
    )
