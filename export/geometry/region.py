"""Rectangles of images: which part of one image another one, or a map, shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Region"]

Array = npt.NDArray[np.float64]
Size = tuple[int, int]


@dataclass(frozen=True)
class Region:
    """A rectangle in an image, in its pixels; that in row r and column c covers [c, c + 1) × [r, r + 1).

    It may reach beyond the image. What shows it is mirrored where `right` is less than `left`, or `lower`
    less than `upper`.

    Attributes:
        left: Where the left edge of what shows it lies.
        upper: Where its upper edge lies.
        right: Where its right edge lies.
        lower: Where its lower edge lies.
    """

    left: float
    upper: float
    right: float
    lower: float

    @classmethod
    def whole(cls, size: Size) -> Region:
        """All of an image of some (H, W)."""
        return cls(0.0, 0.0, float(size[1]), float(size[0]))

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(left, upper, right, lower), as Pillow takes it."""
        return self.left, self.upper, self.right, self.lower

    @property
    def upright(self) -> Region:
        """The same rectangle, shown as it lies in the image."""
        (left, right), (upper, lower) = sorted((self.left, self.right)), sorted((self.upper, self.lower))
        return Region(left, upper, right, lower)

    def of(self, inner: Region, size: Size) -> Region:
        """Where a region of what shows this one lies.

        Args:
            inner: In pixels of an image that shows this region.
            size: (H, W) of that image.
        """
        x, y = (self.right - self.left) / size[1], (self.lower - self.upper) / size[0]
        return Region(
            self.left + inner.left * x,
            self.upper + inner.upper * y,
            self.left + inner.right * x,
            self.upper + inner.lower * y,
        )

    def to_region(self, boxes: Array, size: Size) -> Array:
        """Boxes of the image, in what shows this region.

        Args:
            boxes: (n, 4) (x0, y0, x1, y1), in pixels of the image.
            size: (H, W) of what shows the region, in whose pixels the answer is.
        """
        # Multiplied first and then divided: whole numbers stay whole, as in benchmarks of boxes.
        sides = np.array([size[1], size[0]] * 2)
        part = np.array([self.right - self.left, self.lower - self.upper] * 2)
        return np.asarray((boxes - np.array([self.left, self.upper] * 2)) * sides / part)

    def inverse(self, whole: Size, size: Size) -> Region:
        """Where the whole image lies in what shows this region: the way back.

        Args:
            whole: (H, W) of the image.
            size: (H, W) of what shows the region, in whose pixels the answer is.
        """
        x, y = size[1] / (self.right - self.left), size[0] / (self.lower - self.upper)
        return Region(
            -self.left * x, -self.upper * y, (whole[1] - self.left) * x, (whole[0] - self.upper) * y
        )

    def scaled(self, before: Size, after: Size) -> Region:
        """The same part of the same image, once that was resized from one (H, W) to another."""
        return Region.whole(after).of(self, before)
