"""Brings boxes and masks from an image's coordinates to those of the model's input, as pixels are brought."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from camrt.engine.images.preprocess import Preprocessing
from camrt.errors import InputError
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["to_input_boxes", "to_input_mask", "to_wsol_boxes"]


@ignore_float_errors
def to_input_boxes(
    boxes: ArrayLike, image: tuple[int, int], preprocessing: Preprocessing
) -> NDArray[np.int64]:
    """The pixels of the model's input whose middles lie in each box, at least one.

    Args:
        boxes: (n, 4) (x0, y0, x1, y1) half-open, in pixels of the upright image.
        image: Its (height, width).
        preprocessing: What makes the model's input of it.

    Returns:
        (m, 4) half-open (r0, c0, r1, c1), in pixels of the input. Boxes that the preprocessing cuts off
        altogether are left out: m <= n.

    Raises:
        InputError: Boxes of another shape, not finite, or that end before they begin.
    """
    placed, (height, width) = _placed(boxes, image, preprocessing), preprocessing.size
    seen = (placed[:, 2] > 0) & (placed[:, 3] > 0) & (placed[:, 0] < width) & (placed[:, 1] < height)
    x0, y0, x1, y1 = placed[seen].T
    first, last = [], []
    for start, end, side in ((y0, y1, height), (x0, x1, width)):
        begin, stop = (np.ceil(edge - 0.5).clip(0, side) for edge in (start, end))
        # A box between two middles has the pixel that its own middle lies in.
        own = np.floor((start.clip(0, side) + end.clip(0, side)) / 2).clip(0, side - 1)
        begin = np.where(begin < stop, begin, own)
        first.append(begin)
        last.append(np.maximum(stop, begin + 1))
    return np.stack([*first, *last], axis=1).astype(np.int64)


@ignore_float_errors
def to_wsol_boxes(
    boxes: ArrayLike, image: tuple[int, int], preprocessing: Preprocessing
) -> NDArray[np.int64]:
    """Boxes as the WSOL benchmark takes them: scaled and cut to whole numbers (specification C3).

    Args:
        boxes: (n, 4) (x0, y0, x1, y1), in pixels of the upright image.
        image: Its (height, width).
        preprocessing: What makes the model's input of it.

    Returns:
        (m, 4) (x0, y0, x1, y1) in pixels of the input, the last ones belonging to the box. Boxes that the
        preprocessing cuts off altogether are left out.

    Raises:
        InputError: Boxes of another shape.
    """
    placed, (height, width) = _placed(boxes, image, preprocessing), preprocessing.size
    seen = (placed[:, 2] >= 0) & (placed[:, 3] >= 0) & (placed[:, 0] < width) & (placed[:, 1] < height)
    return placed[seen].clip(0, (width, height, width, height)).astype(np.int64)


@ignore_float_errors
def to_input_mask(
    mask: NDArray[np.uint8], image: tuple[int, int], preprocessing: Preprocessing
) -> NDArray[np.uint8]:
    """A mask (H, W) of the image's own pixels, as the model's input shows it: the nearest pixel's value.

    Raises:
        InputError: A mask of another size than the image.
    """
    if mask.shape != image:
        raise InputError(f"a mask of {mask.shape} for an image of {image}")
    height, width = preprocessing.size
    box = preprocessing.framing(image).region.box
    resized = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST, box=box)
    return np.asarray(resized)


def _placed(boxes: ArrayLike, image: tuple[int, int], preprocessing: Preprocessing) -> NDArray[np.float64]:
    rows = np.asarray(boxes, np.float64)
    if not rows.size:
        rows = rows.reshape(0, 4)
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise InputError(f"boxes must be (n, 4), not {rows.shape}")
    if not (np.isfinite(rows).all() and (rows[:, :2] <= rows[:, 2:]).all()):
        raise InputError("boxes must be (x0, y0, x1, y1), finite, with x0 <= x1 and y0 <= y1")
    return preprocessing.framing(image).region.to_region(rows, preprocessing.size)
