"""μ: how much of a map lies where the model cannot see?

"CAM-Based Methods Can See through Walls" (ECML-PKDD 2024, arXiv:2404.01964), the metric of its table
(specification D15): the norm of the map over the dead zone, relative to the norm of the whole map.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camrt.errors import InputError
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["dead_share", "lower_rows_mask"]


@ignore_float_errors
def dead_share(maps: ArrayLike, dead: ArrayLike) -> NDArray[np.float64]:
    """μ = ‖S over the dead zone‖ / ‖S‖ of each map, by the Frobenius norm. Lower is better.

    A uniform map has the root of the dead zone's share of the image.

    Args:
        maps: S, (N, H, W), finite and nowhere negative.
        dead: bool (H, W), the pixels that cannot influence the model.

    Returns:
        (N,) in [0, 1]; NaN for a map of zeros: leave it out of the mean, and say so.

    Raises:
        InputError: Shapes that do not fit, or values that are negative or not finite.
    """
    checked, zone = np.asarray(maps, np.float64), np.asarray(dead)
    if checked.ndim != 3 or zone.shape != checked.shape[1:] or zone.dtype != np.bool_:
        raise InputError(f"maps (N, H, W) and a dead zone of bool (H, W), not {checked.shape}, {zone.shape}")
    if checked.size and not (np.isfinite(checked).all() and checked.min() >= 0):
        raise InputError("maps must be finite and nowhere negative")
    peaks = checked.max(axis=(1, 2), initial=0)
    scaled = checked / np.where(peaks > 0, peaks, 1)[:, None, None]  # so that no square vanishes or overflows
    energy = (scaled**2).sum(axis=(1, 2))
    return np.asarray(np.sqrt((scaled[:, zone] ** 2).sum(axis=1) / energy))


@ignore_float_errors
def lower_rows_mask(size: tuple[int, int], rows: int) -> NDArray[np.bool_]:
    """A dead zone of the lowest rows of an image (H, W), such as 54 of 224.

    Raises:
        InputError: Not between 0 and H.
    """
    if not 0 <= rows <= size[0]:
        raise InputError(f"{rows} dead rows of an image of {size[0]}")
    zone = np.zeros(size, np.bool_)
    zone[size[0] - rows :] = True
    return zone
