"""Channel overlap (COP): do the channels that matter for one class see another class's patch as well?

"Pixab-CAM: Attend Pixel, not Channel" (ICLR 2022 submission), section on overlapping channels (specification
E8): the reason it gives for weighting cells rather than channels. Methods without channel weights have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from camrt.errors import InputError
from camrt.evaluation.box_masks import boxes_to_mask
from camrt.kernels.float_errors import ignore_float_errors
from camrt.kernels.resampling import bilinear

__all__ = [
    "TOP_CHANNELS",
    "ChannelOverlap",
    "measure_channel_overlap",
    "scaled_top_channels",
]

TOP_CHANNELS = 100
"""Channels that the paper looks at."""
PAPER_CHANNELS = 2048
"""Channels of the paper's Inception-v3 at the cut."""


def scaled_top_channels(channels: int) -> int:
    """The same share of a model's channels as the paper's 100 of 2048, rounded, and at least one.

    With fewer channels 100 of them are no selection any more: of 512, as in ResNet-18, they are a fifth, and
    here 25 are taken.

    Args:
        channels: K, of the model at the cut.
    """
    return max(1, round(TOP_CHANNELS * channels / PAPER_CHANNELS))


@dataclass(frozen=True, eq=False)
class ChannelOverlap:
    """How many of the channels that matter for a class see another class's patch as well.

    Attributes:
        thresholds: Of an active pixel, (L,).
        counts: (L, N) float64, channels of the `top`; NaN for an image with one patch.
        top: How many channels were looked at.
    """

    thresholds: tuple[float, ...]
    counts: npt.NDArray[np.float64]
    top: int

    @property
    def means(self) -> tuple[float, ...]:
        """COP for each threshold, where it is defined; NaN where it is nowhere."""
        defined = self.counts[:, ~np.isnan(self.counts).any(axis=0)]
        return tuple(float(row.mean()) if len(row) else float("nan") for row in defined)

    @property
    def undefined(self) -> int:
        """How many images have none."""
        return int(np.isnan(self.counts).any(axis=0).sum())


@ignore_float_errors
def measure_channel_overlap(
    weights: npt.ArrayLike,
    activations: npt.ArrayLike,
    size: tuple[int, int],
    boxes: Sequence[npt.ArrayLike],
    chosen: npt.ArrayLike,
    *,
    top: int | Literal["scaled"] = TOP_CHANNELS,
    cover: float = 0.8,
    thresholds: Sequence[float] = (0.25, 0.5, 0.75),
) -> ChannelOverlap:
    """COP: how many of the top channels cover the target's patch and another one (specification E8).

    A channel is upsampled bilinearly to the image and scaled to [0, 1] (a constant one is zero); a pixel
    above a threshold is active, and a patch is covered when more than `cover` of its pixels are. How channels
    are made binary the paper does not say, so that several thresholds are counted.

    Args:
        weights: (N, K), the channels' weights for the target class.
        activations: (N, K, h, w) at the cut.
        size: (H, W) of the images.
        boxes: N arrays (n, 4) of patches, half-open (r0, c0, r1, c1) in pixels of the image.
        chosen: (N,), which patch is the target's.
        top: Channels with the largest weights that are looked at; of equal weights the first ones. "scaled"
            takes `scaled_top_channels(K)`.
        cover: The share of a patch.
        thresholds: Each above 0 and below 1.

    Raises:
        InputError: Shapes that do not fit, values that are not finite, more channels asked for than there
            are, or a share or threshold out of range.
    """
    given, maps = np.asarray(weights, np.float64), np.asarray(activations, np.float64)
    owners = np.asarray(chosen)
    whole = owners.shape == (len(boxes),) and owners.dtype.kind in "iu"
    if not whole or maps.ndim != 4 or given.shape != maps.shape[:2] or len(boxes) != len(maps):
        raise InputError(
            f"weights {given.shape}, activations {maps.shape}, {len(boxes)} arrays of boxes and "
            f"{owners.shape} chosen ones must be (N, K), (N, K, h, w), N and (N,) whole numbers"
        )
    if not (np.isfinite(given).all() and np.isfinite(maps).all()):
        raise InputError("weights and activations must be finite; there is NaN or infinity in them")
    if top == "scaled" and given.shape[1]:
        top = scaled_top_channels(given.shape[1])
    if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= given.shape[1]:
        raise InputError(f"top={top!r} must be a number of channels from 1 to {given.shape[1]}")
    if not 0 <= cover < 1 or not thresholds or not all(0 < level < 1 for level in thresholds):
        raise InputError(f"cover={cover!r} and thresholds={tuple(thresholds)} must be shares below 1")
    levels = np.array(thresholds, np.float64)
    counts = np.full((len(thresholds), len(maps)), np.nan)
    for index, (own, target) in enumerate(zip(boxes, owners, strict=True)):
        patches = np.asarray(own)
        if not 0 <= target < len(patches):
            raise InputError(f"patch {target} is chosen, of an image that has {len(patches)}")
        inside = np.stack([boxes_to_mask(patch[None], size) for patch in patches])
        if len(patches) < 2:
            continue
        highest = np.argsort(-given[index], kind="stable")[:top]
        upsampled = bilinear(maps[index, highest], size)
        lowest = upsampled.min(axis=(1, 2), keepdims=True)
        span = upsampled.max(axis=(1, 2), keepdims=True) - lowest
        scaled = (upsampled - lowest) / np.where(span > 0, span, 1.0)
        shares = np.stack(
            [(scaled[:, patch] > levels[:, None, None]).mean(axis=2) for patch in inside], axis=2
        )  # (L, top, n)
        covered = shares > cover
        others = np.delete(covered, target, axis=2).any(axis=2)
        counts[:, index] = (covered[:, :, target] & others).sum(axis=1)
    return ChannelOverlap(tuple(thresholds), counts, top)
