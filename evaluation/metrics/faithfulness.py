"""Average drop, increase in confidence and compactness: is the part that a map keeps what the model needs?

Chattopadhay et al., "Grad-CAM++" (WACV 2018, arXiv:1710.11063), section 4.1, for the first two; "Pixab-CAM"
for the third (specification E5). With Y the probability of a class and O that of the image multiplied by
the class's map, in the model's input space:

    AD = 100/N Σ max(0, Y − O) / Y       IIC = 100/N #{O > Y}       Compactness = 1/N Σ_n Σ_ij L_n

and L on the map's own grid. A map that is everywhere 1 has the best AD; a single point the best compactness:
read them together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camrt.errors import InputError
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["compactness", "drops", "increases"]


@ignore_float_errors
def drops(before: ArrayLike, after: ArrayLike) -> NDArray[np.float64]:
    """Each image's share of the probability lost, max(0, Y − O) / Y; 100 times its mean is AD.

    Args:
        before: Y (N,), probabilities of the whole images.
        after: O (N,), of the images multiplied by their maps.

    Returns:
        (N,) in [0, 1]; NaN where Y is 0 or either is not finite: leave it out of the mean, and say so.

    Raises:
        InputError: Shapes that differ, or values outside [0, 1].
    """
    whole, kept = check_probabilities(before, after)
    lost = np.maximum(0.0, whole - kept) / whole
    return np.where((whole > 0) & np.isfinite(kept), lost, np.nan)


@ignore_float_errors
def increases(before: ArrayLike, after: ArrayLike) -> NDArray[np.float64]:
    """Whether the map made the model surer, O > Y, as 1 and 0; 100 times the mean is IIC.

    Args:
        before: Y (N,).
        after: O (N,).

    Returns:
        (N,) of 0, 1, or NaN where either is not finite.

    Raises:
        InputError: See `drops`.
    """
    whole, kept = check_probabilities(before, after)
    return np.where(np.isfinite(whole) & np.isfinite(kept), (kept > whole).astype(np.float64), np.nan)


@ignore_float_errors
def compactness(maps: ArrayLike) -> NDArray[np.float64]:
    """The sum of each map over the cells of its own grid: (N,), in cells.

    Args:
        maps: L (N, h, w) in [0, 1], before upsampling.

    Raises:
        InputError: Another shape, or values outside [0, 1].
    """
    cells = np.asarray(maps, np.float64)
    if cells.ndim != 3 or 0 in cells.shape[1:]:
        raise InputError(f"maps must be (N, h, w), not {cells.shape}")
    if cells.size and not (cells.min() >= 0 and cells.max() <= 1):
        raise InputError("maps must lie in [0, 1] and be finite")
    return np.asarray(cells.sum(axis=(1, 2)))


def check_probabilities(*arrays: Any) -> list[NDArray[np.float64]]:
    """Arrays of probabilities of one shape (N,); NaN passes.

    Raises:
        InputError: They are not.
    """
    checked = [np.asarray(array, np.float64) for array in arrays]
    if any(array.ndim != 1 or array.shape != checked[0].shape for array in checked):
        raise InputError(f"probabilities must be (N,) each, not {', '.join(str(a.shape) for a in checked)}")
    slack = 1e-6  # a softmax in float32 may add up to a little more than 1
    if any(((array < 0) | (array > 1 + slack)).any() for array in checked):
        raise InputError("probabilities must lie in [0, 1]")
    return checked
