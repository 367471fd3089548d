"""Scores of images that are masked by each channel of an activation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from camrt.engine.arrays import library, safe_divide, zeros
from camrt.engine.heads.base import find_changed_pairs, run_altered_rows
from camrt.engine.images.framing import Framing, uncrop_maps
from camrt.kernels.dispatch import host_readable
from camrt.kernels.masked_batch import masked_batch

__all__ = ["ChannelMasking", "find_constant_channels", "run_masked_channels"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


@dataclass(frozen=True)
class ChannelMasking:
    """How a channel becomes a mask of the image.

    Attributes:
        order: Whether it is upsampled or normalised first, see `masked_batch`.
        align_corners: How it is upsampled.
        epsilon: Added to the range that it is divided by.
        framing: The images' (H, W), and the part of them that channels show.
        threads: Of the native kernels; None lets them choose.
    """

    order: Literal["upsample-first", "normalise-first"]
    align_corners: bool
    epsilon: float
    framing: Framing
    threads: int | None

    def fill(self, images: Array, maps: Array, batch_index: Array, channel: Array, rows: Array) -> None:
        """Writes masked images (B, C, H, W), each of an image and one of its channels (N, K, h, w)."""
        if self.framing.is_whole:
            masked_batch(
                maps,
                images,
                batch_index,
                channel,
                rows,
                order=self.order,
                align_corners=self.align_corners,
                epsilon=self.epsilon,
                threads=self.threads,
            )
        else:
            rows[...] = images[batch_index] * self.uncropped_masks(maps[batch_index, channel])[:, None]

    def uncropped_masks(self, channels: Array) -> Array:
        """Channels (B, h, w) of a part of the images as masks (B, H, W), as `masked_batch` makes them."""
        first = channels if self.order == "upsample-first" else self._normalise(channels)
        masks = uncrop_maps(first, self.framing, beyond="edge", align_corners=self.align_corners)
        return self._normalise(masks) if self.order == "upsample-first" else masks

    def _normalise(self, values: Array) -> Array:
        xp = library(values)
        low = xp.min(values, axis=(1, 2), keepdims=True)
        spread = xp.max(values, axis=(1, 2), keepdims=True) - low
        return safe_divide(values - low, spread + self.epsilon + xp.zeros_like(values), (spread > 0))


def run_masked_channels(
    images: Array,
    maps: Array,
    masking: ChannelMasking,
    *,
    alter: Callable[[Array, Array], None] | None,
    targets: int,
    batch_size: int,
    run: Callable[[Array, Array], Array],
    rows: Callable[[tuple[int, ...]], Array],
) -> Array:
    """Scores of each image under each channel's mask.

    Args:
        images: (N, C, H, W).
        maps: (N, K, h, w).
        masking: How a channel becomes a mask.
        alter: Changes masked images in place before they are run, given them and the image each is of.
        targets: Number of scores of an image.
        batch_size: Images run at once.
        run: Scores (B, T) of images, given the image that each is of.
        rows: Makes the memory for them, given its shape.

    Returns:
        (N, K, T); of a constant channel, whose mask is nowhere, zero, found without a pass where values are
        seen.
    """
    count, channels = maps.shape[:2]
    xp = library(maps)
    answers = zeros((count, channels, targets), maps)
    constant = find_constant_channels(maps)

    def fill(batch_index: Array, channel: Array, masked: Array) -> None:
        masking.fill(images, maps, batch_index, channel, masked)
        if alter is not None:
            alter(masked, batch_index)

    for batch_index, channel, scores in run_altered_rows(
        find_changed_pairs(count, channels, constant, lambda: ~constant),
        images.shape[1:],
        batch_size,
        fill,
        run,
        rows,
    ):
        answers[batch_index, channel] = scores
    if not host_readable(maps):
        answers = xp.where(constant[:, :, None], xp.zeros_like(answers), answers)
    return answers


def find_constant_channels(maps: Array) -> Array:
    """(N, K): which maps (N, K, h, w) are one number, or not finite."""
    xp = library(maps)
    flat = xp.reshape(maps, (*maps.shape[:2], -1))
    with np.errstate(invalid="ignore"):
        return ~(xp.max(flat, axis=2) > xp.min(flat, axis=2))
