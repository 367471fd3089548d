"""ADCC, ARCC and their parts: one figure out of several that a map could each cheat by itself.

Poppi et al., "Revisiting the Evaluation of Class Activation Mapping for Explainability: A Novel Metric and
Experimental Analysis" (CVPR Workshops 2021, arXiv:2104.10252), section 3. With M in [0, 1] the map of an
image x, M' that of x ∘ M for the same class, p the class's probability and p' that of x ∘ M:

    coherency = (1 + corr(M, M')) / 2       complexity = ‖M‖₁ / (H·W)       drop = max(0, p − p') / p
    ADCC = 3 / (1/coherency + 1/(1 − complexity) + 1/(1 − drop))

with Pearson's correlation over pixels. Domeniconi et al., "How to Evaluate and Refine your CAM" (ICPR 2026,
arXiv:2605.14641), put ROAD in the drop's place; the formula is that of their code in pytorch-grad-cam 1.5.7:

    ARCC = 3 / (1/coherency + 1/(1 − complexity) + 1/road)      road = min(1, max(0, LeRF − MoRF))

A harmonic mean of which a part is 0 is 0, its limit. A map that is the same everywhere correlates with
nothing: its coherency is undefined, and what is made of it, where their codes take 0 or ½.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camrt.errors import InputError
from camrt.evaluation.metrics.faithfulness import check_probabilities, compactness
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["adcc", "arcc", "coherency", "mean_saliency"]


@ignore_float_errors
def coherency(maps: ArrayLike, again: ArrayLike) -> NDArray[np.float64]:
    """(1 + Pearson's correlation) / 2 of each map with that of the image which it leaves.

    Args:
        maps: M (N, H, W).
        again: M' (N, H, W), of the images multiplied by M.

    Returns:
        (N,) in [0, 1]; NaN where either map is the same everywhere or not finite.

    Raises:
        InputError: Shapes that differ.
    """
    pair = [np.asarray(one, np.float64) for one in (maps, again)]
    if pair[0].ndim != 3 or 0 in pair[0].shape[1:] or pair[0].shape != pair[1].shape:
        raise InputError(f"two arrays of maps (N, H, W), not {pair[0].shape} and {pair[1].shape}")
    flat = [one.reshape(len(one), one.shape[1] * one.shape[2]) for one in pair]
    centred = [one - one.mean(axis=1, keepdims=True) for one in flat]
    unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in centred]
    found = (1 + np.clip((unit[0] * unit[1]).sum(axis=1), -1, 1)) / 2
    constant = [one.min(axis=1) == one.max(axis=1) for one in flat]  # its rounded mean may differ from it
    return np.where(constant[0] | constant[1], np.nan, found)


@ignore_float_errors
def mean_saliency(maps: ArrayLike) -> NDArray[np.float64]:
    """The complexity of ADCC, ‖M‖₁ / (H·W): (N,) of maps (N, H, W) in [0, 1]. Lower is simpler.

    Raises:
        InputError: Another shape, or values outside [0, 1].
    """
    sums, shape = compactness(maps), np.shape(maps)
    return np.asarray(sums / (shape[1] * shape[2]))


@ignore_float_errors
def adcc(coherencies: ArrayLike, complexities: ArrayLike, lost: ArrayLike) -> NDArray[np.float64]:
    """ADCC of coherencies, complexities and drops, (N,) each in [0, 1]: (N,), NaN where one of them is.

    Raises:
        InputError: Shapes that differ, or values outside [0, 1].
    """
    coherent, complexity, drop = check_probabilities(coherencies, complexities, lost)
    return _harmonic_mean(coherent, 1 - complexity, 1 - drop)


@ignore_float_errors
def arcc(coherencies: ArrayLike, complexities: ArrayLike, road: ArrayLike) -> NDArray[np.float64]:
    """ARCC of coherencies and complexities in [0, 1], and ROAD's (LeRF − MoRF) / 2: (N,), NaN where one is.

    Raises:
        InputError: Shapes that differ, or values outside [0, 1], of ROAD outside [−½, ½].
    """
    half = np.asarray(road, np.float64)
    coherent, complexity, _ = check_probabilities(coherencies, complexities, half + 0.5)
    return _harmonic_mean(coherent, 1 - complexity, np.minimum(np.maximum(2 * half, 0), 1))


def _harmonic_mean(*parts: NDArray[np.float64]) -> NDArray[np.float64]:
    """N / Σ 1/part, 0 where a part is 0."""
    inverse = np.stack([1 / np.maximum(part, 0) for part in parts])
    return np.asarray(len(parts) / inverse.sum(axis=0))
