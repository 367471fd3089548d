"""Sparseness and complexity: on how few pixels does a map put what it says?

With a_i the magnitudes of a map's n values, a_(1) ≤ ... ≤ a_(n) in order, and A their sum:

    sparseness = Σ_i (2i − n − 1) · a_(i) / (n · A)         complexity = −Σ_i p_i ln p_i,  p_i = a_i / A

The first is the Gini index, by which Chalasani et al., "Concise Explanations of Neural Networks using
Adversarial Training" (ICML 2020, arXiv:1810.06583), section 4.1, judge attributions: 0 of a map that is the
same everywhere, 1 − 1/n of a single point. The second is the entropy of the shares, Bhatt et al., "Evaluating
and Aggregating Feature-based Model Explanations" (IJCAI 2020, arXiv:2005.00631), definition 4: ln n nats of a
map that is the same everywhere, 0 of a single point. Both look at the map alone: a map that points at one
arbitrary pixel has the best of each. Read them beside a measure of faithfulness.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camrt.errors import InputError
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["complexity", "sparseness"]


@ignore_float_errors
def sparseness(maps: ArrayLike) -> NDArray[np.float64]:
    """The Gini index of each map's magnitudes. Higher is sparser.

    Args:
        maps: (N, H, W), finite.

    Returns:
        (N,) in [0, 1); NaN for a map of zeros: leave it out of the mean, and say so.

    Raises:
        InputError: Another shape, or values that are not finite.
    """
    values = np.sort(_scaled_magnitudes(maps), axis=1)
    count = values.shape[1]
    weights = 2.0 * np.arange(1, count + 1) - count - 1
    return np.asarray((values @ weights) / (count * values.sum(axis=1)))


@ignore_float_errors
def complexity(maps: ArrayLike) -> NDArray[np.float64]:
    """The entropy of each map's shares, in nats. Lower is simpler.

    Args:
        maps: (N, H, W), finite.

    Returns:
        (N,) from 0 to ln(H·W); NaN for a map of zeros: leave it out of the mean, and say so.

    Raises:
        InputError: Another shape, or values that are not finite.
    """
    values = _scaled_magnitudes(maps)
    shares = values / values.sum(axis=1, keepdims=True)
    logarithms = np.log(np.where(shares > 0, shares, 1.0))  # 0 ln 0 is 0
    return np.asarray(np.maximum(-(shares * logarithms).sum(axis=1), 0.0))


def _scaled_magnitudes(maps: ArrayLike) -> NDArray[np.float64]:
    """Magnitudes (N, n) of maps, each relative to its largest, so that no sum overflows or vanishes."""
    values = np.asarray(maps, np.float64)
    if values.ndim != 3 or 0 in values.shape[1:]:
        raise InputError(f"maps must be (N, H, W), not {values.shape}")
    if not np.isfinite(values).all():
        raise InputError("maps must be finite; a map holds NaN or infinity")
    magnitudes = np.abs(values).reshape(len(values), values.shape[1] * values.shape[2])
    peaks = magnitudes.max(axis=1, keepdims=True)
    return np.asarray(magnitudes / np.where(peaks > 0, peaks, 1.0))
