"""Several drawings on one sheet, captions in Pillow's own font, and the colour bar beneath a drawing."""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from camrt.errors import InputError

__all__ = ["add_legend", "colour_bar", "contact_sheet", "wrap_caption"]

_MARGIN = 6  # pixels around each cell of a contact sheet
_FONT_SIZE = 13
_MOST_LINES = 6  # of a caption; what is longer is cut short
_TICKS = (0.0, 0.5, 1.0)


def colour_bar(colours: NDArray[np.uint8], width: int, font_size: int, name: str = "saliency") -> Image.Image:
    """A bar of colours from no saliency to the most, with numbers beneath, on white.

    Args:
        colours: (256, 3) uint8.
        width: Pixels.
        font_size: Of the numbers, in pixels.
        name: What stands between the numbers, where there is room.
    """
    font = ImageFont.load_default(font_size)
    line, bar, gap = math.ceil(font.getbbox("Ag")[3]), max(font_size * 2 // 3, 4), max(font_size // 4, 2)
    legend = Image.new("RGB", (width, bar + line + 3 * gap), "white")
    inner = max(width - 2 * gap, 1)
    legend.paste(Image.fromarray(colours[None]).resize((inner, bar), Image.Resampling.BILINEAR), (gap, gap))
    draw = ImageDraw.Draw(legend)
    top = bar + 2 * gap
    for tick in _TICKS if width >= 10 * font_size else (0.0, 1.0):
        words = f"{name} {tick:g}" if tick == 0 and width >= 16 * font_size else f"{tick:g}"
        along = min(
            max(gap + tick * inner - font.getlength(words) / 2, gap), width - gap - font.getlength(words)
        )
        draw.text((along, top), words, "black", font)
    return legend


def add_legend(image: Image.Image, colours: NDArray[np.uint8]) -> Image.Image:
    """An image with a colour bar beneath."""
    legend = colour_bar(colours, image.width, min(max(min(image.size) // 30, 10), 60))
    joined = Image.new("RGB", (image.width, image.height + legend.height), "white")
    joined.paste(image, (0, 0))
    joined.paste(legend, (0, image.height))
    return joined


def is_whole_number(value: Any) -> bool:
    """Whether a caller gave one, whatever the annotation says."""
    return isinstance(value, Integral) and not isinstance(value, bool)


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
    if not is_whole_number(columns) or columns < 1:
        raise InputError(f"columns must be a whole number, at least 1, got {columns!r:.80}")
    font = ImageFont.load_default(_FONT_SIZE)
    line = math.ceil(font.getbbox("Ag")[3])
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    width = max(image.width for image in images)
    height = max(image.height for image in images)
    texts = [wrap_caption(caption, width, font) for caption in captions]
    step_x, step_y = width + _MARGIN, height + max(map(len, texts)) * line + 2 * _MARGIN
    sheet = Image.new("RGB", (columns * step_x + _MARGIN, rows * step_y + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (image, text) in enumerate(zip(images, texts, strict=True)):
        left, upper = _MARGIN + place % columns * step_x, _MARGIN + place // columns * step_y
        sheet.paste(image, (left + (width - image.width) // 2, upper + (height - image.height) // 2))
        for number, words in enumerate(text):
            draw.text((left, upper + height + _MARGIN // 2 + number * line), words, "black", font)
    return sheet


def wrap_caption(caption: str, width: int, font: Any) -> list[str]:
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
        lengths = range(1, len(left) + 1)
        kept = max(bisect_right(lengths, width, key=lambda count: math.ceil(font.getlength(left[:count]))), 1)
        if kept < len(left) and left[kept] != " ":
            kept = left.rfind(" ", 0, kept) if " " in left[:kept] else kept
        lines.append(left[:kept])
        left = left[kept:].lstrip()
    return lines or [""]
