"""Bands and depths of pictures: what is brought to 8 bits and how, and what cannot be.

1. A TIFF says how many bands it has. More than its colours need, one band that it declares as transparency
   aside, is no colour picture, and is refused.
2. Of colours in 16 bits Pillow gives the upper 8. Where these are below 64, the picture holds fewer bits than
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

from camrt.errors import PictureError

__all__ = ["Depth", "depth_of", "eight_bits"]

USUAL_BITS = (8, 10, 12, 14, 16, 24, 32)
FULL = 65535
FEWEST_LEVELS = 64
AN_ARRAY = "bring it to 8 bits, or pass an array (N, C, H, W) of the model's inputs"

# The numbers of tags of TIFF 6.0.
BITS, PHOTOMETRIC, SAMPLES, MOST, EXTRA, FORMAT = 258, 262, 277, 281, 338, 339
COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}  # bands of each kind of PhotometricInterpretation
TRANSPARENCY = (1, 2, 999)  # kinds of ExtraSamples; the last is what CorelDRAW writes for it
UNSIGNED = 1


@dataclass(frozen=True)
class Depth:
    """What a file says of its numbers, before they are read.

    Attributes:
        most: The largest number that its kind of grey can hold, where it is declared.
        inverted: Whether 0 is white.
        upper_bits: Whether Pillow gives the upper 8 of 16 bits.
    """

    most: int | None = None
    inverted: bool = False
    upper_bits: bool = False


def depth_of(picture: Image.Image) -> Depth:
    """What a picture that was opened, and not loaded yet, says of its numbers.

    Raises:
        PictureError: It has more bands than a colour picture.
    """
    tiles = getattr(picture, "tile", ())
    wide = any(";16" in str(tile[3]) for tile in tiles) and not is_wide_grey(picture)
    if picture.format in ("PPM", "JPEG2000"):
        return Depth(FULL, upper_bits=wide)
    tags = getattr(picture, "tag_v2", None)
    if tags is None:
        return Depth(upper_bits=wide)
    kind, bands = tags.get(PHOTOMETRIC, 1), tags.get(SAMPLES, 1)
    beyond = bands - COLOURS.get(kind, bands)
    extra = tags.get(EXTRA, ())
    if beyond > 1 or (beyond == 1 and not (extra and extra[0] in TRANSPARENCY)):
        raise PictureError(
            f"has {bands} bands, of which {bands - beyond} are colours and the rest is not declared as "
            "transparency: pass an array (N, C, H, W) of the model's inputs instead"
        )
    bits, most = tags.get(BITS, (1,))[0], tags.get(MOST)
    if most is not None:
        most = int(np.max(most))
    elif bits not in (16, 32) and tags.get(FORMAT, (UNSIGNED,))[0] == UNSIGNED:
        most = 2**bits - 1
    return Depth(most, kind == 0 and is_wide_grey(picture), wide)


def is_wide_grey(picture: Image.Image) -> bool:
    """Whether a picture is grey in more than 8 bits, or in floating point."""
    return picture.mode.startswith("I") or picture.mode == "F"


def eight_bits(picture: Image.Image, depth: Depth) -> tuple[Image.Image, str | None]:
    """A picture of 8 bits a band, and what had to be guessed for it.

    Args:
        picture: A picture that was loaded.
        depth: What it said of its numbers.

    Raises:
        PictureError: Its range cannot be told, or too little is left of it.
    """
    if not is_wide_grey(picture):
        if depth.upper_bits and colours_of(picture).max() < FEWEST_LEVELS:
            raise PictureError(
                f"of colours in 16 bits only the upper 8 can be read, and here these are below "
                f"{FEWEST_LEVELS}: it holds fewer than 16 bits; {AN_ARRAY}"
            )
        return picture, None
    values = np.asarray(picture)
    if picture.mode == "F":
        if not (values.min() >= 0 and np.isfinite(values).all()):
            raise PictureError(f"floating-point pixels below 0, or not finite, have no RGB form; {AN_ARRAY}")
        if values.max() <= 1:
            return grey(np.rint(values * 255), picture, values, depth), None
        if (values != np.floor(values)).any():
            raise PictureError(
                f"floating-point pixels outside [0, 1] that are no whole numbers have no RGB form; {AN_ARRAY}"
            )
    if values.min() < 0:
        raise PictureError(f"pixels below 0 have no RGB form; {AN_ARRAY}")
    numbers, told = values.astype(np.int64), None
    most, largest = depth.most, int(values.max())
    if most is None or most < largest:
        bits = next((bits for bits in USUAL_BITS if largest < 1 << bits), None)
        if bits is None:
            raise PictureError(f"pixels of up to {largest} have no RGB form; {AN_ARRAY}")
        most = (1 << bits) - 1
        if largest and bits != 16:
            told = (
                f"a picture of more than 8 bits that declares no range is taken to hold {bits} bits, the "
                "fewest usual ones that hold its numbers; where that is wrong, bring it to 8 bits yourself"
            )
    return grey((numbers * 510 + most) // (2 * most), picture, values, depth), told


def grey(levels: NDArray[Any], picture: Image.Image, values: NDArray[Any], depth: Depth) -> Image.Image:
    """A grey picture of levels 0 to 255; white, where the picture says its number is transparent."""
    levels = levels.astype(np.uint8)
    if depth.inverted:
        levels = 255 - levels
    clear = picture.info.get("transparency")
    if isinstance(clear, int):
        levels = np.where(values == clear, np.uint8(255), levels)
    return Image.fromarray(levels)


def colours_of(picture: Image.Image) -> NDArray[np.uint8]:
    """The colour bands (H, W, n) of a picture, transparency left out."""
    pixels = np.asarray(picture)
    return pixels[..., :3] if pixels.ndim == 3 and picture.mode != "CMYK" else pixels
