"""Reading pictures: whatever Pillow can decode becomes RGB, whatever it cannot becomes a `PictureError`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from camrt.engine.callers import warn_caller
from camrt.engine.depths import depth_of, eight_bits
from camrt.engine.picture_streams import is_stream, picture_bytes
from camrt.engine.pillow_warnings import refuse_bomb, silent
from camrt.errors import InputRangeWarning, PictureError
from camrt.export.file_kinds import absence
from camrt.kernels.forks import undivided

__all__ = ["PictureSource", "find_pictures", "formats", "is_picture_name", "read_picture"]

PictureSource = str | os.PathLike[str] | Image.Image | NDArray[np.uint8] | bytes | bytearray | IO[bytes]
"""What `read_picture` accepts."""

# Pillow lists these, but cannot decode them by itself: stubs for other libraries' formats, Windows
# metafiles, and PostScript, which is a program that Pillow would hand to Ghostscript to run.
_UNSUITABLE = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_TRANSPARENT = {"LA", "La", "PA", "RGBA", "RGBa"}


@cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read."""
    with undivided():
        Image.init()  # imports Pillow's modules
    return tuple(sorted(set(Image.OPEN) - _UNSUITABLE))


@cache
def _suffixes() -> frozenset[str]:
    known = set(formats())
    return frozenset(suffix for suffix, form in Image.registered_extensions().items() if form in known)


def is_picture_name(name: str | os.PathLike[str]) -> bool:
    """Whether the file name ends as a picture's that Pillow reads (".jpg", ".PNG", ...)."""
    return Path(name).suffix.lower() in _suffixes()


def read_picture(source: PictureSource) -> Image.Image:
    """One picture as RGB, upright.

    EXIF orientation is applied, transparency is laid over white, palettes, CMYK (without its colour profile)
    and grey are converted, grey in more than 8 bits is scaled to 8 by its declared or found range, floating
    point is taken as [0, 1]; `camrt.engine.depths` has the rules. Of several frames the first is read.
    Warnings that Pillow gives on the way are silenced, except the one about a decompression bomb, which is
    an error here; a range that had to be guessed is an `InputRangeWarning`.

    Args:
        source: A file, a Pillow picture (left as it is, not closed), a uint8 array (H, W, 3) or (H, W), or a
            picture file's bytes, or an open file of them, which is read from its beginning and left open.

    Returns:
        A new RGB picture that holds no file open.

    Raises:
        PictureError: Missing, a folder, not a picture, truncated, too many pixels, bands that are no colours,
            or pixels that have no RGB form; the message names the file and the reason.
    """
    if isinstance(source, np.ma.MaskedArray):
        raise PictureError("a picture is a masked array, whose mask no model sees: fill it (array.filled(0))")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _decode(source, str(getattr(source, "filename", "") or "the picture"))
    if is_stream(source):
        name = str(getattr(source, "name", "") or "the picture")
        return _decode(picture_bytes(source, name), name)
    if not isinstance(source, str | os.PathLike):
        raise PictureError(wrong_kind(source))
    path = Path(source)
    name = str(path)
    try:
        if path.is_dir():
            raise PictureError(f"{name}: is a folder, not a picture")
        if not path.exists():
            raise PictureError(f"{source}: {absence(source)}")
        if not path.is_file():
            raise PictureError(f"{name}: is not a regular file")
        with path.open("rb") as file:
            return _decode(file, name)
    except OSError as error:
        raise PictureError(f"{name}: cannot be read: {error.strerror or error}") from error


def wrong_kind(source: Any) -> str:
    """What to say of something that is no picture."""
    expected = "expected a file, its bytes, a Pillow picture or a uint8 array as picture, got "
    if isinstance(source, memoryview):
        return f"{expected}a memoryview: say bytes(view) of a file's bytes, numpy.asarray(view) of pixels"
    if isinstance(source, (list, tuple)):
        return f"{expected}a {type(source).__name__}: numbers for the model go in one array (N, C, H, W)"
    return expected + type(source).__name__


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise PictureError(
            f"a picture given as an array must be uint8 (H, W, 3) or (H, W), got {array.dtype} "
            f"{array.shape}; numbers for the model go in one array (N, C, H, W), not in a list"
        )
    if 0 in array.shape:
        raise PictureError(f"a picture given as an array has no pixels: {array.shape}")
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def _decode(source: Any, name: str) -> Image.Image:
    """The RGB picture in an open file or a lazily loaded picture, with every failure named."""
    read, guessed = _decoded(source, name)
    if guessed is not None:
        warn_caller(guessed, InputRangeWarning)
    return read


def _decoded(source: Any, name: str) -> tuple[Image.Image, str | None]:
    with silent():
        try:
            if isinstance(source, Image.Image):
                return _rgb(source)
            with Image.open(source, formats=formats()) as picture:
                refuse_bomb(picture)
                decoded = _rgb(picture)
                refuse_bomb(picture)  # a few formats say their size only when they are decoded
                return decoded
        except UnidentifiedImageError:
            raise PictureError(f"{name}: not a picture that Pillow can read") from None
        except Image.DecompressionBombError:
            raise PictureError(
                f"{name}: more than {Image.MAX_IMAGE_PIXELS} pixels, which might be a decompression bomb"
            ) from None
        except PictureError as error:
            raise PictureError(f"{name}: {error}") from None
        except Exception as error:  # damaged files make Pillow's decoders raise almost anything
            raise PictureError(f"{name}: truncated or damaged: {error}") from error


def _rgb(picture: Image.Image) -> tuple[Image.Image, str | None]:
    if 0 in picture.size:
        raise PictureError("has no pixels")
    depth = depth_of(picture)  # before it is loaded, which forgets it
    picture, guessed = eight_bits(_upright(picture), depth)
    if picture.mode in _TRANSPARENT or "transparency" in picture.info:
        if picture.mode == "La":  # Pillow converts premultiplied grey to plain grey alone
            picture = picture.convert("LA")
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    try:
        return picture.convert("RGB"), guessed
    except ValueError:
        raise PictureError(f"pixels of mode {picture.mode} have no RGB form") from None


def _upright(picture: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says; as it is, where that cannot be understood."""
    picture.load()
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # damaged EXIF is no reason to refuse sound pixels
        return picture


def find_pictures(
    paths: Iterable[str | os.PathLike[str]],
    *,
    on_error: Callable[[PictureError], None] | None = None,
) -> Iterator[Path]:
    """The picture files among some paths, one by one.

    Folders are walked with their sub-folders, in the order of the names; files in them count by their
    suffix (see `is_picture_name`), and names that begin with a dot do not count. Links to folders inside a
    folder are not followed. A file that is named itself is always yielded.

    Args:
        paths: Files and folders.
        on_error: Called with each error instead of raising it; the walk then goes on.

    Yields:
        Paths, folder by folder.

    Raises:
        PictureError: A path that does not exist, a folder that cannot be listed or holds no picture.
    """
    for given in paths:
        path = Path(given)
        try:
            if not path.exists():
                raise PictureError(
                    f"{path}: {absence(given).replace('no such file', 'no such file or folder')}"
                )
            if not path.is_dir():
                yield path
                continue
            empty = True
            for found in _walk(path, on_error):
                empty = False
                yield found
            if empty:
                raise PictureError(f"{path}: no picture in this folder")
        except PictureError as error:
            if on_error is None:
                raise
            on_error(error)
        except OSError as error:
            failure = PictureError(f"{path}: cannot be read: {error.strerror or error}")
            if on_error is None:
                raise failure from error
            on_error(failure)


def _walk(folder: Path, on_error: Callable[[PictureError], None] | None) -> Iterator[Path]:
    try:
        with os.scandir(folder) as listing:
            entries = sorted(
                (entry.name, entry.is_dir(follow_symlinks=False), entry.is_dir())
                for entry in listing
                if not entry.name.startswith(".")
            )
    except OSError as error:
        failure = PictureError(f"{folder}: cannot be listed: {error.strerror or error}")
        if on_error is None:
            raise failure from error
        on_error(failure)
        return
    for name, is_folder, leads_to_folder in entries:
        if is_folder:
            yield from _walk(folder / name, on_error)
        elif not leads_to_folder and is_picture_name(name):
            yield folder / name
