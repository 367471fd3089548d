"""Marks on a drawing: frames, and the most salient place; white in a dark seam, so seen on every image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from camrt.export.geometry.region import Region

__all__ = ["draw_boxes", "draw_peak", "draw_region", "line_width"]


def line_width(size: tuple[int, ...]) -> int:
    """Pixels that a line has on an image of (H, W)."""
    return max(min(size) // 250, 1) + 1


def draw_boxes(image: Image.Image, boxes: NDArray[np.float64]) -> None:
    """Frames (n, 4): left, upper, right and lower edge; what lies beyond the image is not drawn."""
    draw, width = ImageDraw.Draw(image), line_width(image.size)
    for left, upper, right, lower in boxes.clip(-1e6, 1e6).tolist():
        corners = (min(left, right), min(upper, lower), max(left, right) - 1, max(upper, lower) - 1)
        if corners[2] < corners[0] or corners[3] < corners[1]:  # less than a pixel
            continue
        draw.rectangle(corners, outline="black", width=width + 2)
        draw.rectangle(
            (
                corners[0] + 1,
                corners[1] + 1,
                max(corners[2] - 1, corners[0] + 1),
                max(corners[3] - 1, corners[1] + 1),
            ),
            outline="white",
            width=width,
        )


def draw_region(image: Image.Image, region: Region) -> None:
    """A frame around a part of the image."""
    draw_boxes(image, np.array([region.box], np.float64))


def draw_peak(image: Image.Image, saliency: NDArray[Any]) -> None:
    """A ring around the most salient place, the first of several."""
    y, x = (float(place) + 0.5 for place in np.unravel_index(int(saliency.argmax()), saliency.shape))
    draw, width = ImageDraw.Draw(image), line_width(image.size)
    radius = 4 * width
    for colour, more in (("black", 2), ("white", 0)):
        reach = radius + more / 2
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), outline=colour, width=width + more)
