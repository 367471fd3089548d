"""Localisation: does a map point at the object? Two protocols over boxes.

Both take maps S (N, H, W), one a target, and the boxes of that target's objects; a pixel is inside when it is
in any of the boxes. Baselines belong beside every figure: a map that knows nothing scores the share of the
image that the boxes cover, and the centre of the image is often a strong guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camrt.errors import InputError
from camrt.evaluation.box_masks import boxes_to_mask
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["energy_in_boxes", "is_peak_inside", "pointing_game", "share_inside"]


@ignore_float_errors
def pointing_game(maps: ArrayLike, boxes: Sequence[ArrayLike]) -> NDArray[np.bool_]:
    """Whether each map's highest pixel lies in a box of its target.

    From Zhang et al., *Top-down Neural Attention by Excitation Backprop* (ECCV 2016, arXiv:1608.00507), with
    no margin around the boxes (the paper allows 15 pixels):

        hit_n = [ argmax_(r,c) S_n[r, c] ∈ ∪ boxes_n ]

    The mean of the hits is the protocol's accuracy.

    Args:
        maps: S, real (N, H, W), finite. Of several equal maxima the first in row-major order counts.
        boxes: N arrays (n, 4), half-open (r0, c0, r1, c1) in pixels of the map, inside the map, not empty.

    Returns:
        bool (N,). A map of zeros points nowhere and misses, and so does a map without any box.

    Raises:
        InputError: shapes that do not fit, values that are not finite, or boxes empty or outside the map.
    """
    checked = _checked_maps(maps, boxes)
    hits = np.zeros(len(checked), np.bool_)
    for index, (saliency, own) in enumerate(zip(checked, boxes, strict=True)):
        hits[index] = is_peak_inside(saliency, boxes_to_mask(own, saliency.shape))
    return hits


@ignore_float_errors
def energy_in_boxes(maps: ArrayLike, boxes: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """The share of each map's sum that lies in the boxes of its target.

    From Wang et al., *Score-CAM* (CVPR Workshops 2020, arXiv:1910.01279), the energy-based pointing game:

        energy_n = Σ_((r,c) ∈ ∪ boxes_n) S_n[r, c]  /  Σ_(r,c) S_n[r, c]

    Args:
        maps: S, real (N, H, W), finite and nowhere negative (a share of a signed sum means nothing).
        boxes: N arrays (n, 4), half-open (r0, c0, r1, c1) in pixels of the map, inside the map, not empty. A
            pixel in several boxes counts once.

    Returns:
        float64 (N,) in [0, 1]. A map of zeros has 0, and so does a map without any box.

    Raises:
        InputError: as for `pointing_game`, or a negative value.
    """
    checked = _checked_maps(maps, boxes)
    if checked.size and checked.min() < 0:
        raise InputError("energy needs maps that are nowhere negative")
    shares = np.zeros(len(checked), np.float64)
    for index, (saliency, own) in enumerate(zip(checked, boxes, strict=True)):
        shares[index] = share_inside(saliency, boxes_to_mask(own, saliency.shape))
    return shares


@ignore_float_errors
def is_peak_inside(saliency: NDArray[np.floating[Any]], inside: NDArray[np.bool_]) -> bool:
    """Whether a map's highest pixel, the first of several, lies in an area (H, W); never that of zeros."""
    return bool(saliency.any() and inside.flat[np.argmax(saliency)])


@ignore_float_errors
def share_inside(saliency: NDArray[np.floating[Any]], inside: NDArray[np.bool_]) -> float:
    """The share of a map's sum that lies in an area (H, W); 0 of a map of zeros."""
    peak = saliency.max()
    if not peak > 0:
        return 0.0
    scaled = saliency.astype(np.float64) / peak  # so that neither sum overflows or vanishes
    return float(min(1.0, scaled[inside].sum() / scaled.sum()))


@ignore_float_errors
def _checked_maps(maps: ArrayLike, boxes: Sequence[Any]) -> NDArray[np.float64]:
    checked = np.asarray(maps)
    if checked.ndim != 3 or 0 in checked.shape[1:]:
        raise InputError(f"maps must be (N, H, W), not {checked.shape}")
    if checked.dtype.kind not in "fiub":
        raise InputError(f"maps must be real numbers, not {checked.dtype}")
    if len(boxes) != len(checked):
        raise InputError(f"{len(checked)} maps need {len(checked)} arrays of boxes, not {len(boxes)}")
    if not np.isfinite(checked).all():
        raise InputError("maps must be finite; a map holds NaN or infinity")
    return checked.astype(np.float64)
