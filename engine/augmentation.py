"""Copies of images that a map is averaged over: mirrored, and of more and less contrast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from camrt.engine.arrays import library, reserve_for
from camrt.engine.images.framing import Framing
from camrt.export.geometry.region import Region

__all__ = ["AUGMENTATIONS", "Augmentation"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


@dataclass(frozen=True)
class Augmentation:
    """One such copy.

    Attributes:
        mirrored: Left to right.
        factor: What the numbers of the image are multiplied by, as the model takes them.
    """

    mirrored: bool
    factor: float

    def alter(self, images: Array) -> Array:
        """The copies of images (N, C, H, W)."""
        reserve_for((2, *images.shape), images, "altered images", itemsize=4)
        xp = library(images)
        turned = xp.flip(images, axis=3) if self.mirrored else images
        return turned * np.float32(self.factor).item()

    def undo(self, maps: Array) -> Array:
        """Maps (..., h, w) of the copies as they lie on the images."""
        return library(maps).flip(maps, axis=-1) if self.mirrored else maps

    def frame(self, framing: Framing) -> Framing:
        """The part of the images that such maps show, given the part of the copies."""
        if not self.mirrored:
            return framing
        left, upper, right, lower = framing.region.box
        width = float(framing.size[1])
        return Framing(framing.size, Region(width - right, upper, width - left, lower))


AUGMENTATIONS = tuple(
    Augmentation(mirrored, factor) for mirrored in (False, True) for factor in (1.0, 0.9, 1.1)
)
"""Those of the pytorch-grad-cam package; the first is the image itself."""
