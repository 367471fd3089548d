"""Bands and depths of images: what is brought to 8 bits and how, and what cannot be.

1. A TIFF says how many bands it has. More than its colours need, one band that it declares as transparency
   aside, is no colour image, and is refused.
2. Of colours in 16 bits Pillow gives the upper 8. Where these are below 64, the image holds fewer bits than
   it was stored in, or is very dark; as hardly any levels are left of it, it is refused.
3. Grey in more than 8 bits is scaled by its largest possible number. That is what the file declares (a TIFF's
   12 bits or its MaxSampleValue; netpbm and JPEG 2000 files are read in full 16 bits), or else the largest of
   the fewest bits that hold its numbers, of 8, 10, 12, 14, 16, 24 and 32; a warning says so, where these are
   not 16.
4. Floating-point grey is in [0, 1], or in whole numbers, which are scaled as in 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camrt.errors import ImageError

__all__ = ["BitDepth", "read_bit_depth", "to_8_bits"]

USUAL_BITS = (8, 10, 12, 14, 16, 24, 32)
MAX_16_BIT = 65535
MIN_LEVELS = 64
ARRAY_HINT = "bring it to 8 bits, or pass an array (N, C, H, W) of the model's inputs"

# The numbers of tags of TIFF 6.0.
BITS, PHOTOMETRIC, SAMPLES, MOST, EXTRA, FORMAT = 258, 262, 277, 281, 338, 339
COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}  # bands of each kind of PhotometricInterpretation
TRANSPARENCY = (1, 2, 999)  # kinds of ExtraSamples; the last is what CorelDRAW writes for it
UNSIGNED = 1


@dataclass(frozen=True)
class BitDepth:
    """What a file says of its numbers, before they are read.

    Attributes:
        most: The largest number that its kind of grey can hold, where it is declared.
        inverted: Whether 0 is white.
        upper_bits: Whether Pillow gives the upper 8 of 16 bits.
    """

    most: int | None = None
    inverted: bool = False
    upper_bits: bool = False


def read_bit_depth(image: Image.Image) -> BitDepth:
    """What an image that was opened, and not loaded yet, says of its numbers.

    Raises:
        ImageError: It has more bands than a colour image.
    """
    tiles = getattr(image, "tile", ())
    wide = any(";16" in str(tile[3]) for tile in tiles) and not is_wide_grey(image)
    if image.format in ("PPM", "JPEG2000"):
        return BitDepth(MAX_16_BIT, upper_bits=wide)
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return BitDepth(upper_bits=wide)
    kind, bands = tags.get(PHOTOMETRIC, 1), tags.get(SAMPLES, 1)
    beyond = bands - COLOURS.get(kind, bands)
    extra = tags.get(EXTRA, ())
    if beyond > 1 or (beyond == 1 and not (extra and extra[0] in TRANSPARENCY)):
        raise ImageError(
            f"has {bands} bands, of which {bands - beyond} are colours and the rest is not declared as "
            "transparency: pass an array (N, C, H, W) of the model's inputs instead"
        )
    bits, most = tags.get(BITS, (1,))[0], tags.get(MOST)
    if most is not None:
        most = int(np.max(most))
    elif bits not in (16, 32) and tags.get(FORMAT, (UNSIGNED,))[0] == UNSIGNED:
        most = 2**bits - 1
    return BitDepth(most, kind == 0 and is_wide_grey(image), wide)


def is_wide_grey(image: Image.Image) -> bool:
    """Whether an image is grey in more than 8 bits, or in floating point."""
    return image.mode.startswith("I") or image.mode == "F"


def to_8_bits(image: Image.Image, depth: BitDepth) -> tuple[Image.Image, str | None]:
    """An image of 8 bits a band, and what had to be guessed for it.

    Args:
        image: An image that was loaded.
        depth: What it said of its numbers.

    Raises:
        ImageError: Its range cannot be told, or too little is left of it.
    """
    if not is_wide_grey(image):
        if depth.upper_bits and colour_bands(image).max() < MIN_LEVELS:
            raise ImageError(
                f"of colours in 16 bits only the upper 8 can be read, and here these are below "
                f"{MIN_LEVELS}: it holds fewer than 16 bits; {ARRAY_HINT}"
            )
        return image, None
    values = np.asarray(image)
    if image.mode == "F":
        if not (values.min() >= 0 and np.isfinite(values).all()):
            raise ImageError(f"floating-point pixels below 0, or not finite, have no RGB form; {ARRAY_HINT}")
        if values.max() <= 1:
            return make_grey(np.rint(values * 255), image, values, depth), None
        if (values != np.floor(values)).any():
            raise ImageError(
                "floating-point pixels outside [0, 1] that are no whole numbers have no RGB form; "
                f"{ARRAY_HINT}"
            )
    if values.min() < 0:
        raise ImageError(f"pixels below 0 have no RGB form; {ARRAY_HINT}")
    numbers, told = values.astype(np.int64), None
    most, largest = depth.most, int(values.max())
    if most is None or most < largest:
        bits = next((bits for bits in USUAL_BITS if largest < 1 << bits), None)
        if bits is None:
            raise ImageError(f"pixels of up to {largest} have no RGB form; {ARRAY_HINT}")
        most = (1 << bits) - 1
        if largest and bits != 16:
            told = (
                f"an image of more than 8 bits that declares no range is taken to hold {bits} bits, the "
                "fewest usual ones that hold its numbers; where that is wrong, bring it to 8 bits yourself"
            )
    return make_grey((numbers * 510 + most) // (2 * most), image, values, depth), told


def make_grey(levels: NDArray[Any], image: Image.Image, values: NDArray[Any], depth: BitDepth) -> Image.Image:
    """A grey image of levels 0 to 255; white, where the image says its number is transparent."""
    levels = levels.astype(np.uint8)
    if depth.inverted:
        levels = 255 - levels
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        levels = np.where(values == clear, np.uint8(255), levels)
    return Image.fromarray(levels)


def colour_bands(image: Image.Image) -> NDArray[np.uint8]:
    """The colour bands (H, W, n) of an image, transparency left out."""
    pixels = np.asarray(image)
    return pixels[..., :3] if pixels.ndim == 3 and image.mode != "CMYK" else pixels
