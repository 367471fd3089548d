"""Drawing a saliency over its image, and several drawings on one sheet."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from camrt.engine.images.framing import Framing, uncrop_maps
from camrt.errors import InputError
from camrt.export.geometry.region import Region

__all__ = ["COLOUR_MAP", "contact_sheet", "overlay"]

# From deep violet through magenta and orange to a pale yellow. The lightness rises in even steps (CIELAB
# L* from 8 to 95), so that more saliency is always lighter, in grey print too, and for every kind of sight.
_ANCHORS = (
    (28, 7, 62),
    (54, 8, 104),
    (85, 10, 131),
    (119, 14, 138),
    (153, 25, 131),
    (186, 41, 114),
    (214, 63, 91),
    (235, 92, 65),
    (247, 126, 42),
    (252, 164, 40),
    (252, 205, 77),
    (252, 243, 160),
)
_OPAQUE_FROM = 0.6  # the saliency from which on the colour has its full opacity
_MARGIN = 6  # pixels around each cell of a contact sheet
_FONT_SIZE = 13
_MOST_LINES = 6  # of a caption; what is longer is cut short


def _make_colour_map() -> NDArray[np.uint8]:
    anchors = np.array(_ANCHORS, np.float64)
    at = np.linspace(0, len(anchors) - 1, 256)
    columns = [np.interp(at, np.arange(len(anchors)), anchors[:, channel]) for channel in range(3)]
    return np.rint(np.stack(columns, axis=1)).astype(np.uint8)


COLOUR_MAP: NDArray[np.uint8] = _make_colour_map()
"""(256, 3) uint8 RGB, the colour of each level of saliency."""


def is_instance(value: Any, kind: type) -> bool:
    """Whether a caller gave a number of some kind, whatever the annotation says."""
    return isinstance(value, kind)


def overlay(
    image: Image.Image, saliency: NDArray[Any], *, opacity: float = 0.5, region: Region | None = None
) -> Image.Image:
    """An image with its saliency in colours over it.

    The colour's opacity grows with the saliency, from none at 0, so unimportant parts stay readable and a
    map of zeros leaves the image as it is.

    Args:
        image: Any Pillow image.
        saliency: (H, W) in [0, 1]; resized (bilinear) to the image where the sizes differ.
        opacity: Of the most salient pixels, in [0, 1].
        region: The part of the image that the saliency shows; nothing is drawn on the rest. None for all.

    Returns:
        A new RGB image of the image's size.

    Raises:
        InputError: A saliency that is not (H, W) in [0, 1], or an opacity outside [0, 1].
    """
    if not is_instance(opacity, Real) or not 0 <= opacity <= 1:
        raise InputError(f"opacity must be in [0, 1], got {opacity!r:.80}")
    saliency = np.asarray(saliency, np.float32)
    if saliency.ndim != 2 or 0 in saliency.shape:
        raise InputError(f"expected a saliency (H, W), got {saliency.shape}")
    if not (saliency.min() >= 0 and saliency.max() <= 1):
        raise InputError("the saliency must lie in [0, 1]")
    image = image.convert("RGB")
    framing = None if region is None else Framing((image.height, image.width), region)
    if framing is not None and not framing.is_whole:
        saliency = uncrop_maps(saliency, framing).clip(0, 1)
    elif saliency.shape != (image.height, image.width):
        resized = Image.fromarray(saliency).resize(image.size, Image.Resampling.BILINEAR)
        saliency = np.asarray(resized).clip(0, 1)
    base = np.asarray(image).astype(np.float32)
    colour = COLOUR_MAP[np.rint(saliency * 255).astype(np.uint8)]
    rise = np.minimum(saliency / _OPAQUE_FROM, 1)
    weight = (opacity * rise * rise * (3 - 2 * rise))[..., None]  # smoothstep: no visible edge at either end
    return Image.fromarray(np.rint(base + weight * (colour - base)).astype(np.uint8))


def contact_sheet(images: Sequence[Image.Image], captions: Sequence[str], columns: int) -> Image.Image:
    """Several images on one white sheet, row by row, each with its caption beneath.

    Args:
        images: One or more images; each is centred in a cell as large as the largest of them.
        captions: One an image; in ASCII, on several lines where it is wider than its cell, and cut short
            after six.
        columns: Images a row, at least 1; fewer where there are fewer images.

    Returns:
        An RGB image.

    Raises:
        InputError: No images, another number of captions than of images, or columns below 1.
    """
    if not images:
        raise InputError("a contact sheet needs at least one image")
    if len(captions) != len(images):
        raise InputError(f"expected {len(images)} captions, one an image, got {len(captions)}")
    if not is_instance(columns, Integral) or columns < 1:
        raise InputError(f"columns must be a whole number, at least 1, got {columns!r:.80}")
    columns = int(columns)
    font = ImageFont.load_default(_FONT_SIZE)
    line = math.ceil(font.getbbox("Ag")[3])
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    width = max(image.width for image in images)
    height = max(image.height for image in images)
    texts = [_wrap_caption(caption, width, font) for caption in captions]
    step_x, step_y = width + _MARGIN, height + max(map(len, texts)) * line + 2 * _MARGIN
    sheet = Image.new("RGB", (columns * step_x + _MARGIN, rows * step_y + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (image, text) in enumerate(zip(images, texts, strict=True)):
        left, upper = _MARGIN + place % columns * step_x, _MARGIN + place // columns * step_y
        sheet.paste(image, (left + (width - image.width) // 2, upper + (height - image.height) // 2))
        for number, words in enumerate(text):
            draw.text((left, upper + height + _MARGIN // 2 + number * line), words, "black", font)
    return sheet


def _wrap_caption(caption: str, width: int, font: Any) -> list[str]:
    """The caption on lines that are no wider than some pixels, broken between words where they fit.

    Pillow's own font has the ASCII characters alone: accents are dropped, other letters become "?".
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", caption) if not unicodedata.combining(c))
    left = " ".join(plain.encode("ascii", "replace").decode().split())
    lines: list[str] = []
    while left:
        if len(lines) == _MOST_LINES:
            lines[-1] = lines[-1][: max(len(lines[-1]) - 3, 0)] + "..."
            break
        kept = len(left)
        while kept > 1 and font.getlength(left[:kept]) > width:
            kept -= 1
        if kept < len(left) and left[kept] != " ":
            kept = left.rfind(" ", 0, kept) if " " in left[:kept] else kept
        lines.append(left[:kept])
        left = left[kept:].lstrip()
    return lines or [""]
