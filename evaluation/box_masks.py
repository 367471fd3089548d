"""Boxes as masks of pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camrt.errors import InputError

__all__ = ["boxes_to_mask"]


def boxes_to_mask(boxes: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The pixels in any of some boxes.

    Args:
        boxes: (n, 4), half-open (r0, c0, r1, c1); n may be 0.
        shape: H and W of the map.

    Returns:
        bool (H, W).

    Raises:
        InputError: boxes of another shape, not of whole pixels, empty, or outside the map.
    """
    height, width = shape
    rows = np.asarray(boxes)
    if rows.size == 0:
        return np.zeros((height, width), np.bool_)
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise InputError(f"boxes must be (n, 4), half-open (r0, c0, r1, c1), not {rows.shape}")
    if not np.issubdtype(rows.dtype, np.integer):
        raise InputError(f"boxes are whole pixels, not {rows.dtype}")
    inside = np.zeros((height, width), np.bool_)
    for r0, c0, r1, c1 in rows.tolist():
        if not (0 <= r0 < r1 <= height and 0 <= c0 < c1 <= width):
            raise InputError(f"box {(r0, c0, r1, c1)} is empty or outside a map of {height}×{width}")
        inside[r0:r1, c0:c1] = True
    return inside
