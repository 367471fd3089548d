"""Drawing a saliency over its image."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camrt.engine.images.framing import Framing, uncrop_maps
from camrt.engine.images.marks import draw_boxes, draw_peak, draw_region, line_width
from camrt.engine.images.sheets import add_legend
from camrt.engine.images.style import CONTOURS, MASK_THRESHOLD, DrawingStyle, StyleOptions
from camrt.errors import InputError
from camrt.export.geometry.region import Region

__all__ = ["draw_heat", "overlay"]

_OPAQUE_FROM = 0.6  # the saliency from which on the colour has its full opacity
_LEAST_LIGHT = 0.5  # of what is faded wholly, as a share of its own
_OUTSIDE_LIGHT = 0.35  # of what the model did not see
_DARK = 110  # the grey below which a line's seam is white, and above it black
_STRIP = 1 << 20  # pixels that are drawn at once, so that a large photograph takes little memory
_RED_GREEN_BLUE = np.array([0.299, 0.587, 0.114], np.float32)  # of grey, as Pillow and JPEG have it


def overlay(
    image: Image.Image,
    saliency: NDArray[Any],
    *,
    region: Region | None = None,
    **style: Unpack[StyleOptions],
) -> Image.Image:
    """An image with its saliency drawn over it.

    The colour's opacity grows with the saliency, from none at 0, so unimportant parts stay readable.

    Args:
        image: Any Pillow image.
        saliency: (H, W) in [0, 1]; resized (bilinear) to the image where the sizes differ.
        region: The part of the image that the saliency shows; nothing is drawn on the rest. None for all.
        **style: See `camrt.engine.images.style.DrawingStyle`.

    Returns:
        A new RGB image of the image's size, higher by the colour bar where there is one.

    Raises:
        InputError: A saliency that is not (H, W) in [0, 1], or a style that means nothing.
        MissingExtraError: The colour map is one of matplotlib's, which is not installed.

    Example:
        overlay(photograph, explanation.maps[0], colormap="viridis", legend=True)
    """
    how = DrawingStyle(**style)
    saliency = np.asarray(saliency, np.float32)
    if saliency.ndim != 2 or 0 in saliency.shape:
        raise InputError(f"expected a saliency (H, W), got {saliency.shape}")
    if not (saliency.min() >= 0 and saliency.max() <= 1):
        raise InputError("the saliency must lie in [0, 1]")
    image = image.convert("RGB")
    size = (image.height, image.width)
    framing = Framing.whole(size) if region is None else Framing(size, region)
    placed = saliency
    if not framing.is_whole:
        placed = uncrop_maps(saliency, framing).clip(0, 1)
    elif saliency.shape != size:
        placed = np.asarray(Image.fromarray(saliency).resize(image.size, Image.Resampling.BILINEAR)).clip(
            0, 1
        )
    drawn = _paint(np.asarray(image), placed, framing, how)
    if how.outside == "outline" and not framing.is_whole:
        draw_region(drawn, framing.region)
    if how.boxes is not None:
        draw_boxes(drawn, np.asarray(how.boxes, np.float64).reshape(-1, 4))
    if how.peak and placed.max() > 0:
        draw_peak(drawn, placed)
    return add_legend(drawn, how.colours) if how.legend else drawn


def draw_heat(saliency: NDArray[Any], **style: Unpack[StyleOptions]) -> Image.Image:
    """A saliency by itself, in colours on black: for batches of numbers, of which there is no image.

    Args:
        saliency: (H, W) in [0, 1].
        **style: See `overlay`.
    """
    height, width = np.asarray(saliency).shape[-2:]
    return overlay(Image.new("RGB", (width, height)), saliency, **(StyleOptions(opacity=1.0) | style))


def _paint(
    base: NDArray[np.uint8], saliency: NDArray[np.float32], framing: Framing, how: DrawingStyle
) -> Image.Image:
    """The image with the saliency in it, some rows at a time."""
    drawn = np.empty_like(base)
    steepness = (
        np.hypot(*np.gradient(saliency)) if how.mode == "contour" and min(base.shape[:2]) > 1 else None
    )
    rows = max(_STRIP // base.shape[1], 1)
    for start in range(0, len(base), rows):
        part = slice(start, start + rows)
        pixels, values = base[part].astype(np.float32), saliency[part]
        if how.mode == "blend":
            done = _blend(pixels, values, how)
        elif how.mode == "mask":
            kept = (values >= (MASK_THRESHOLD if how.threshold is None else how.threshold))[..., None]
            done = np.where(kept, pixels, _fade(pixels, how.faded))
        else:
            slope = np.zeros_like(values) if steepness is None else steepness[part]
            done = _contour(pixels, values, slope, line_width(base.shape[:2]), how)
        drawn[part] = np.rint(done)
    if how.outside == "dim" and not framing.is_whole:
        beyond = ~_inside(framing)
        drawn[beyond] = np.rint(_OUTSIDE_LIGHT * _fade(base[beyond].astype(np.float32), 0.5))
    return Image.fromarray(drawn)


def _blend(
    pixels: NDArray[np.float32], values: NDArray[np.float32], how: DrawingStyle
) -> NDArray[np.float32]:
    colour = how.colours[np.rint(values * 255).astype(np.uint8)]
    rise = np.minimum(values / _OPAQUE_FROM, 1)
    weight = how.opacity * rise * rise * (3 - 2 * rise)  # smoothstep: no visible edge at either end
    if how.threshold is not None:
        weight = np.where(values >= how.threshold, weight, 0)
    ground = _fade(pixels, how.faded)
    blended: NDArray[np.float32] = ground + weight[..., None].astype(np.float32) * (colour - ground)
    return blended


def _contour(
    pixels: NDArray[np.float32],
    values: NDArray[np.float32],
    slope: NDArray[np.float32],
    width: float,
    how: DrawingStyle,
) -> NDArray[np.float32]:
    """Lines where the saliency passes a level, in a seam; how far a pixel is off one its slope tells."""
    done = _fade(pixels, how.faded)
    for level in CONTOURS if how.threshold is None else (how.threshold,):
        away = np.abs(values - level) / np.maximum(slope, 1e-6)
        line = how.colours[round(255 * level)].astype(np.float32)
        seam = np.full(3, 255 if line @ _RED_GREEN_BLUE < _DARK else 0, np.float32)
        for half, colour in ((width + 1, seam), (width / 2, line)):
            cover = how.opacity * np.clip(half + 0.5 - away, 0, 1)[..., None]
            done += cover * (colour - done)
    return done


def _fade(pixels: NDArray[np.float32], fade: float) -> NDArray[np.float32]:
    """Pixels (..., 3) with less colour and less light."""
    grey = (pixels @ _RED_GREEN_BLUE)[..., None]
    faded: NDArray[np.float32] = np.float32(1 - (1 - _LEAST_LIGHT) * fade) * (pixels + fade * (grey - pixels))
    return faded


def _inside(framing: Framing) -> NDArray[np.bool_]:
    """(H, W) which pixels the part has; a pixel belongs to it where its middle does."""
    region = framing.region
    rows, columns = (np.arange(side) + 0.5 for side in framing.size)
    within = (
        (places > min(ends)) & (places < max(ends))
        for places, ends in ((rows, (region.upper, region.lower)), (columns, (region.left, region.right)))
    )
    return np.logical_and.outer(*within)
