"""Reads an image's size from its header without decoding it, and the values of a PNG mask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from camrt.engine.images.pillow_warnings import refuse_bomb, silence_pillow
from camrt.engine.images.read import readable_formats
from camrt.errors import DataError, ImageError

__all__ = ["image_size", "read_mask"]

_ORIENTATION, _WIDTH, _HEIGHT = 0x0112, 256, 257  # tags of EXIF and TIFF
_TRANSPOSED_ORIENTATIONS = (5, 6, 7, 8)  # orientations that exchange width and height
_MAY_ORIENT = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")


def image_size(path: Path) -> tuple[int, int]:
    """An image's height and width as `camrt.engine.images.read.read_image` will give it, from its header.

    Pixels are not decoded, except of PNG files that may state their orientation behind the pixels.

    Args:
        path: The file.

    Returns:
        (height, width) in pixels of the upright image.

    Raises:
        ImageError: Not a regular file, not an image, without pixels, or with more pixels than Pillow's
            limit for decompression bombs; the message does not name the file.
    """
    with _open_image(path, readable_formats()) as (file, image):
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # some releases of Pillow turn these at once
            width, height = int(image.tag_v2[_WIDTH]), int(image.tag_v2[_HEIGHT])
        return (width, height) if _orientation(file, image) in _TRANSPOSED_ORIENTATIONS else (height, width)


def read_mask(path: Path, size: tuple[int, int] | None) -> NDArray[np.bool_]:
    """The marked pixels of a PNG mask: values 0 and 1, or 0 and 255.

    Args:
        path: A PNG file of 1-bit, grey or palette pixels; of a palette the indices count, not the colours.
        size: The (height, width) that it must have; None takes any.

    Returns:
        bool (H, W), true where the file has 1 or 255.

    Raises:
        DataError: Missing, damaged, of another size, of colours, or with other values; the message does not
            name the file.
    """
    try:
        with _open_image(path, ("PNG",)) as (_, image):
            width, height = image.size
            if size is not None and size != (height, width):
                raise DataError(f"the mask is {width}×{height}, its image {size[1]}×{size[0]}")
            if image.mode not in ("1", "L", "P"):
                raise DataError(f"a mask has one bit, grey or palette pixels, not {image.mode}")
            values = np.asarray(image).astype(np.uint8)
    except ImageError as error:
        raise DataError(str(error)) from error
    present = np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist()
    wrong = [value for value in present if value not in (0, 1, 255)]
    if wrong:
        shown = ", ".join(map(str, wrong[:8])) + (", ..." if len(wrong) > 8 else "")
        raise DataError(f"a mask's values are 0 and 1 or 0 and 255; this one also has {shown}")
    if 1 in present and 255 in present:
        raise DataError("the mask has both 1 and 255, of which one might mean a border or ignored pixels")
    return values > 0


@contextmanager
def _open_image(path: Path, formats: tuple[str, ...]) -> Iterator[tuple[IO[bytes], Image.Image]]:
    """The open file and the lazily loaded image in it, with every failure of Pillow's an `ImageError`."""
    with silence_pillow():
        try:
            if not path.is_file():
                raise ImageError("no such file" if not path.exists() else "not a regular file")
            with path.open("rb") as file, Image.open(file, formats=formats) as image:
                if 0 in image.size:
                    raise ImageError("has no pixels")
                refuse_bomb(image)
                yield file, image
                refuse_bomb(image)  # a few formats say their size only when they are decoded
        except (ImageError, DataError):
            raise
        except UnidentifiedImageError:
            wanted = "a PNG file" if formats == ("PNG",) else "an image that Pillow can read"
            raise ImageError(f"not {wanted}") from None
        except Image.DecompressionBombError:
            raise ImageError(
                f"more than {Image.MAX_IMAGE_PIXELS} pixels, which might be a decompression bomb"
            ) from None
        except Exception as error:  # damaged files make Pillow's decoders raise almost anything
            raise ImageError(f"truncated or damaged: {error}") from error


def _orientation(file: IO[bytes], image: Image.Image) -> int:
    """The EXIF orientation; 1 where there is none or it cannot be understood, as for `read_image`."""
    if image.format == "PNG" and _has_orientation_after_pixels(file):
        image.load()
    try:
        return int(Image.Image.getexif(image).get(_ORIENTATION, 1))  # PNG's own getexif always decodes
    except Exception:  # damaged EXIF is no reason to refuse a sound image
        return 1


def _has_orientation_after_pixels(file: IO[bytes]) -> bool:
    """Whether a PNG file has chunks behind its pixels in which an orientation might stand."""
    place = file.tell()
    try:
        file.seek(8)
        behind = False
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            if behind and head[4:] in _MAY_ORIENT:
                return True
            behind = behind or head[4:] == b"IDAT"
            file.seek(int.from_bytes(head[:4], "big") + 4, 1)
        return False
    finally:
        file.seek(place)
