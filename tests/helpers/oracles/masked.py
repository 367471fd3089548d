"""RISE and occlusion, by loops over pixels in float64.

- RISE (Petsiuk et al., BMVC 2018): S(λ) = 1/(p·N) · Σ_i f(x ∘ M_i) · M_i(λ). M_i: random zeros and ones, g×g,
  upsampled to (g + 1) cells of ⌈H/g⌉ by ⌈W/g⌉ pixels, cut out at a random place less than a cell from the
  corner.
- Occlusion: d_w = f(x) − f(x without window w). "paper" (Zeiler & Fergus, ECCV 2014): a pixel's value is that
  of the
  window whose middle is nearest; "captum": the mean over the windows that cover it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.oracles.postprocess import upsampled

__all__ = ["occlusion", "rise", "rise_masks", "window_begins"]

Array = npt.NDArray[Any]
Score = Callable[[Array], float]


def rise_masks(size: tuple[int, int], *, passes: int, cells: int, share: float, seed: int) -> list[Array]:
    """M_i, each (H, W)."""
    masks = []
    for draw in range(passes):
        rng = np.random.default_rng([seed, draw])
        grid = (rng.random((cells, cells)) < share).astype(np.float64)
        steps = [-(-size[0] // cells), -(-size[1] // cells)]
        top, left = rng.integers(0, steps)
        large = upsampled(grid, ((cells + 1) * steps[0], (cells + 1) * steps[1]))
        masks.append(large[top : top + size[0], left : left + size[1]])
    return masks


def rise(
    score: Score, image: Array, *, passes: int, cells: int, share: float, seed: int
) -> tuple[Array, Array]:
    """S (H, W) of an image (C, H, W), and its standard error over the masks."""
    size = (image.shape[1], image.shape[2])
    terms = []
    for mask in rise_masks(size, passes=passes, cells=cells, share=share, seed=seed):
        terms.append(score(image * mask) * mask / share)
    return np.mean(terms, axis=0), np.std(terms, axis=0, ddof=1) / np.sqrt(passes)


def window_begins(side: int, window: int, stride: int) -> list[int]:
    """Where the windows of an axis begin: at multiples of the stride, until one reaches the end."""
    begins = [0]
    while begins[-1] + window < side:
        begins.append(begins[-1] + stride)
    return begins


def occlusion(
    score: Score,
    image: Array,
    window: tuple[int, int],
    stride: tuple[int, int],
    baseline: float,
    definition: str,
) -> Array:
    """The map (H, W) of an image (C, H, W)."""
    _, height, width = image.shape
    whole = score(image)
    found = []
    for top in window_begins(height, window[0], stride[0]):
        for left in window_begins(width, window[1], stride[1]):
            hidden = image.astype(np.float64)
            below, right = min(top + window[0], height), min(left + window[1], width)
            hidden[:, top:below, left:right] = baseline
            found.append((top, below, left, right, whole - score(hidden)))
    result = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            if definition == "captum":
                covering = [
                    d for top, below, left, right, d in found if top <= i < below and left <= j < right
                ]
                result[i, j] = sum(covering) / len(covering)
            else:
                result[i, j] = min(
                    found,
                    key=lambda one: (
                        abs((one[0] + one[1] - 1) / 2 - i), abs((one[2] + one[3] - 1) / 2 - j), one[0], one[2]
                    ),
                )[4]  # fmt: skip
    return result
