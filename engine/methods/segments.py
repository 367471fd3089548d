"""Parts of an image that are hidden as wholes: a grid's cells, or superpixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from camrt.engine.arrays import to_numpy
from camrt.engine.extras import import_extra
from camrt.export.budget import reserve_array

__all__ = ["Segmentation", "Segments", "segment_images"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
Segmentation = Literal["grid", "slic", "quickshift"]


@dataclass(frozen=True)
class Segments:
    """Which part each pixel of some images belongs to.

    Attributes:
        labels: (N, H, W) from 0, or (1, H, W) where all images have the same parts.
        counts: How many parts each image has, or all have.
    """

    labels: npt.NDArray[np.int64]
    counts: tuple[int, ...]

    @property
    def shared(self) -> bool:
        """Whether all images have the same parts, for all that is known."""
        return len(self.counts) == 1


def segment_images(images: Array, how: Segmentation, cells: int) -> Segments:
    """The parts of images (N, C, H, W).

    "grid": cells×cells rectangles as equal as they can be, or one a pixel of a smaller image. "slic" (Achanta
    et al., TPAMI 2012) and "quickshift" (Vedaldi & Soatto, ECCV 2008) are scikit-image's, the first with
    cells² parts, the second with the settings of the lime package; colours are scaled to [0, 1], and the
    images are looked at on the host.

    Raises:
        MissingExtraError: scikit-image, which superpixels need, is not installed.
    """
    height, width = images.shape[2:]
    reserve_array((len(images), height, width), "parts of images", itemsize=8)
    if how == "grid":
        rows, columns = (np.arange(side) * min(cells, side) // side for side in (height, width))
        across = min(cells, width)
        return Segments((rows[:, None] * across + columns)[None], (min(cells, height) * across,))
    segmentation = import_extra("skimage.segmentation")
    found = []
    for image in to_numpy(images):
        low, high = image.min(), image.max()
        pixels = ((image - low) / (high - low if high > low else 1)).transpose(1, 2, 0).astype(np.float64)
        pixels = np.nan_to_num(pixels)
        lab = pixels.shape[2] == 3
        if how == "slic":
            made = segmentation.slic(
                pixels, n_segments=cells**2, compactness=10, start_label=0, convert2lab=lab, channel_axis=-1
            )
        else:
            made = segmentation.quickshift(
                pixels, kernel_size=4, max_dist=200, ratio=0.2, convert2lab=lab, rng=0, channel_axis=-1
            )
        found.append(np.unique(made, return_inverse=True)[1].reshape(height, width))
    labels = np.stack(found).astype(np.int64)
    return Segments(labels, tuple(int(one.max()) + 1 for one in labels))
