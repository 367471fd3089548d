"""Drawing a saliency over its picture, and several drawings on one sheet."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from camrt.engine.framing import Framing, laid
from camrt.errors import InputError
from camrt.export.regions import Region

__all__ = ["RAMP", "contact_sheet", "overlay"]

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


def _ramp() -> NDArray[np.uint8]:
    anchors = np.array(_ANCHORS, np.float64)
    at = np.linspace(0, len(anchors) - 1, 256)
    columns = [np.interp(at, np.arange(len(anchors)), anchors[:, channel]) for channel in range(3)]
    return np.rint(np.stack(columns, axis=1)).astype(np.uint8)


RAMP: NDArray[np.uint8] = _ramp()
"""(256, 3) uint8 RGB, the colour of each level of saliency."""


def is_a(value: Any, kind: type) -> bool:
    """Whether a caller gave a number of some kind, whatever the annotation says."""
    return isinstance(value, kind)


def overlay(
    picture: Image.Image, saliency: NDArray[Any], *, opacity: float = 0.5, region: Region | None = None
) -> Image.Image:
    """A picture with its saliency in colours over it.

    The colour's opacity grows with the saliency, from none at 0, so unimportant parts stay readable and a
    map of zeros leaves the picture as it is.

    Args:
        picture: Any Pillow picture.
        saliency: (H, W) in [0, 1]; resized (bilinear) to the picture where the sizes differ.
        opacity: Of the most salient pixels, in [0, 1].
        region: The part of the picture that the saliency shows; nothing is drawn on the rest. None for all.

    Returns:
        A new RGB picture of the picture's size.

    Raises:
        InputError: A saliency that is not (H, W) in [0, 1], or an opacity outside [0, 1].
    """
    if not is_a(opacity, Real) or not 0 <= opacity <= 1:
        raise InputError(f"opacity must be in [0, 1], got {opacity!r:.80}")
    saliency = np.asarray(saliency, np.float32)
    if saliency.ndim != 2 or 0 in saliency.shape:
        raise InputError(f"expected a saliency (H, W), got {saliency.shape}")
    if not (saliency.min() >= 0 and saliency.max() <= 1):
        raise InputError("the saliency must lie in [0, 1]")
    picture = picture.convert("RGB")
    framing = None if region is None else Framing((picture.height, picture.width), region)
    if framing is not None and not framing.shows_all:
        saliency = laid(saliency, framing).clip(0, 1)
    elif saliency.shape != (picture.height, picture.width):
        resized = Image.fromarray(saliency).resize(picture.size, Image.Resampling.BILINEAR)
        saliency = np.asarray(resized).clip(0, 1)
    base = np.asarray(picture).astype(np.float32)
    colour = RAMP[np.rint(saliency * 255).astype(np.uint8)]
    rise = np.minimum(saliency / _OPAQUE_FROM, 1)
    weight = (opacity * rise * rise * (3 - 2 * rise))[..., None]  # smoothstep: no visible edge at either end
    return Image.fromarray(np.rint(base + weight * (colour - base)).astype(np.uint8))


def contact_sheet(images: Sequence[Image.Image], captions: Sequence[str], columns: int) -> Image.Image:
    """Several pictures on one white sheet, row by row, each with its caption beneath.

    Args:
        images: One or more pictures; each is centred in a cell as large as the largest of them.
        captions: One a picture; in ASCII, and cut short where it is wider than its cell.
        columns: Pictures a row, at least 1; fewer where there are fewer pictures.

    Returns:
        An RGB picture.

    Raises:
        InputError: No pictures, another number of captions than of pictures, or columns below 1.
    """
    if not images:
        raise InputError("a contact sheet needs at least one picture")
    if len(captions) != len(images):
        raise InputError(f"expected {len(images)} captions, one a picture, got {len(captions)}")
    if not is_a(columns, Integral) or columns < 1:
        raise InputError(f"columns must be a whole number, at least 1, got {columns!r:.80}")
    columns = int(columns)
    font = ImageFont.load_default(_FONT_SIZE)
    line = math.ceil(font.getbbox("Ag")[3])
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    width = max(image.width for image in images)
    height = max(image.height for image in images)
    step_x, step_y = width + _MARGIN, height + line + 2 * _MARGIN
    sheet = Image.new("RGB", (columns * step_x + _MARGIN, rows * step_y + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, upper = _MARGIN + place % columns * step_x, _MARGIN + place // columns * step_y
        sheet.paste(image, (left + (width - image.width) // 2, upper + (height - image.height) // 2))
        draw.text((left, upper + height + _MARGIN // 2), _fitting(caption, width, font), "black", font)
    return sheet


def _fitting(caption: str, width: int, font: Any) -> str:
    """The caption on one line, as much of it as is no wider than some pixels.

    Pillow's own font has the ASCII characters alone: accents are dropped, other letters become "?".
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", caption) if not unicodedata.combining(c))
    caption = " ".join(plain.encode("ascii", "replace").decode().split())
    if font.getlength(caption) <= width:
        return caption
    kept = len(caption)
    while kept and font.getlength(caption[:kept] + "...") > width:
        kept -= 1
    return caption[:kept].rstrip() + "..." if kept else ""
