"""Deletion and insertion: how fast does the probability fall, or rise, along a map's order of pixels?

Petsiuk et al., "RISE" (BMVC 2018, arXiv:1806.07421), section 4.2, with the constants of its code
(specification E6). Pixels go by decreasing saliency, of equal ones the first in row-major order first.
Deletion starts at the image and puts zeros, the mean colour, in their place; insertion starts at the
blurred image and puts the true pixels in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import is_torch_array
from numpy.typing import ArrayLike, NDArray

from camrt.engine.arrays import to_float32, to_numpy
from camrt.errors import InputError
from camrt.evaluation.metrics.removal import gaussian
from camrt.kernels import perturb
from camrt.kernels.blur import blur
from camrt.kernels.dispatch import host_readable
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["area_under_curve", "insertion_baseline", "ranks_of", "rise_blur_weights", "step_pixel_counts"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
BLUR_SIDE, BLUR_SIGMA = 11, 5.0
"""Of the blur that insertion starts from."""


@ignore_float_errors
def ranks_of(maps: Any) -> Any:
    """The place of each pixel in its map's order: (N, H·W), 0 for the most salient.

    Args:
        maps: (N, H, W), finite, which is not looked at on a GPU. Of equal values the first in row-major order
            comes first.

    Raises:
        InputError: Another shape, or values that are not finite.
    """
    if not is_torch_array(maps):
        maps = np.asarray(maps)
        # The negative of any type.
        maps = maps if maps.dtype == np.float32 else maps.astype(np.float64)
    if maps.ndim != 3 or (host_readable(maps) and not np.isfinite(to_numpy(maps)).all()):
        raise InputError(f"maps must be (N, H, W) and finite, not {tuple(maps.shape)}")
    return perturb.ranks_of(maps)


@ignore_float_errors
def step_pixel_counts(pixels: int, step: int) -> NDArray[np.int64]:
    """How many pixels are altered at each point of a curve: 0, step, 2 step, ... and all of them.

    Raises:
        InputError: A step below 1.
    """
    if step < 1:
        raise InputError(f"step={step} must be at least one pixel")
    return np.minimum(np.arange(-(-pixels // step) + 1) * step, pixels)


@ignore_float_errors
def area_under_curve(curves: ArrayLike) -> NDArray[np.float64]:
    """Area under curves (..., n) whose points lie evenly in [0, 1]: (sum − (first + last)/2) / (n − 1).

    Raises:
        InputError: Fewer than two points.
    """
    values = np.asarray(curves, np.float64)
    if values.ndim < 1 or values.shape[-1] < 2:
        raise InputError(f"a curve needs at least two points, not {values.shape}")
    ends = (values[..., 0] + values[..., -1]) / 2
    return np.asarray((values.sum(axis=-1) - ends) / (values.shape[-1] - 1))


@ignore_float_errors
def rise_blur_weights(side: int = BLUR_SIDE, sigma: float = BLUR_SIGMA) -> NDArray[np.float64]:
    """RISE's blur along one axis: a Gaussian of a point in a window that reflects it, adding up to 1.

    The window reflects at its borders, the outermost place repeated, and the Gaussian is cut at 4 sigma.

    Raises:
        InputError: The side is even, or the sigma not positive.
    """
    if side < 1 or side % 2 == 0 or not 0 < sigma < np.inf:
        raise InputError(f"a blur needs an odd side and a positive sigma, not {side} and {sigma}")
    reach = int(4 * sigma + 0.5)
    tail = gaussian(2 * reach + 1, sigma)
    folded = np.zeros(side)
    for offset, weight in zip(range(-reach, reach + 1), tail, strict=True):
        place = (side // 2 + offset) % (2 * side)  # two windows, the second mirrored, repeat for ever
        folded[min(place, 2 * side - 1 - place)] += weight
    return folded


@ignore_float_errors
def insertion_baseline(images: Array, side: int = BLUR_SIDE, sigma: float = BLUR_SIGMA) -> Array:
    """Images (N, C, H, W), as the model takes them, blurred as RISE does, with zeros beyond the border.

    They may be tensors, and are blurred where they lie.
    """
    found: Array = to_float32(blur(images, rise_blur_weights(side, sigma), "zero"))
    return found
