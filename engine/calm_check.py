"""Whether a CALM head's numbers are what they are said to be."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["is_joint_distribution"]

Array = npt.NDArray[Any]

# Largest difference of a probability from what others add up to.
PROBABILITY_TOLERANCE = 1e-3


@ignore_float_errors
def is_joint_distribution(log_joint: Array, logits: Array) -> bool:
    """Whether p(y,z|x) adds up to one, and over places to exp of the logits.

    Args:
        log_joint: log p(y,z|x), (N, C, h, w).
        logits: log p(y|x), (N, C).
    """
    if log_joint.ndim != 4 or log_joint.shape[:2] != logits.shape:
        return False
    if np.isnan(log_joint).any() or not np.isfinite(logits).all():
        return False
    of_class = np.exp(log_joint.astype(np.float64)).sum(axis=(2, 3))
    whole = np.abs(of_class.sum(axis=1) - 1).max()
    return bool(
        max(whole, np.abs(of_class - np.exp(logits.astype(np.float64))).max()) <= PROBABILITY_TOLERANCE
    )
