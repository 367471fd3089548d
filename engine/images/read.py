"""Reading images: whatever Pillow can decode becomes RGB, whatever it cannot becomes an `ImageError`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from camrt.engine.arrays import is_masked
from camrt.engine.caller_warnings import warn_caller
from camrt.engine.images.bit_depth import read_bit_depth, to_8_bits
from camrt.engine.images.pillow_warnings import refuse_bomb, silence_pillow
from camrt.engine.images.streams import image_bytes, is_stream
from camrt.engine.run_folder import read_results
from camrt.errors import ImageError, InputRangeWarning
from camrt.export.io.file_kinds import describe_missing
from camrt.kernels.fork_safety import block_forks

__all__ = [
    "DecodedFile",
    "ImageSource",
    "decode_image",
    "describe_results",
    "find_images",
    "is_image_name",
    "list_class_folders",
    "list_images",
    "read_image",
    "readable_formats",
]

ImageSource = str | os.PathLike[str] | Image.Image | NDArray[np.uint8] | bytes | bytearray | IO[bytes]
"""What `read_image` accepts."""

# Pillow lists these, but cannot decode them by itself: stubs for other libraries' formats, Windows
# metafiles, and PostScript, which is a program that Pillow would hand to Ghostscript to run.
_UNSUITABLE = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
TURNED = frozenset({5, 6, 7, 8})  # EXIF orientations that exchange height and width
_TRANSPARENT = {"LA", "La", "PA", "RGBA", "RGBa"}


@cache
def readable_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read."""
    with block_forks():
        Image.init()  # imports Pillow's modules
    return tuple(sorted(set(Image.OPEN) - _UNSUITABLE))


@cache
def _suffixes() -> frozenset[str]:
    known = set(readable_formats())
    return frozenset(suffix for suffix, form in Image.registered_extensions().items() if form in known)


def is_image_name(name: str | os.PathLike[str]) -> bool:
    """Whether the file name ends as an image's that Pillow reads (".jpg", ".PNG", ...)."""
    return Path(name).suffix.lower() in _suffixes()


@dataclass(frozen=True)
class DecodedFile:
    """A decoded image.

    Attributes:
        image: RGB, upright, with no file open.
        guessed: What had to be guessed of its range, in words; None where nothing had to be.
        full_size: (H, W) upright, as the file says; larger than the image where that was reduced.
    """

    image: Image.Image
    guessed: str | None
    full_size: tuple[int, int]


def read_image(source: ImageSource) -> Image.Image:
    """One image as RGB, upright.

    EXIF orientation is applied, transparency is laid over white, palettes, CMYK (without its colour profile)
    and grey are converted, grey in more than 8 bits is scaled to 8 by its declared or found range, floating
    point is taken as [0, 1]; `camrt.engine.images.bit_depth` has the rules. Of several frames the first is
    read. Warnings that Pillow gives on the way are silenced, except the one about a decompression bomb, which
    is an error here; a range that had to be guessed is an `InputRangeWarning`.

    Args:
        source: A file, a Pillow image (left as it is, not closed), a uint8 array (H, W, 3) or (H, W), or an
            image file's bytes, or an open file of them, which is read from its beginning and left open.

    Returns:
        A new RGB image that holds no file open.

    Raises:
        ImageError: Missing, a folder, not an image, truncated, too many pixels, bands that are no colours,
            or pixels that have no RGB form; the message names the file and the reason.
    """
    decoded = decode_image(source)
    if decoded.guessed is not None:
        warn_caller(decoded.guessed, InputRangeWarning)
    return decoded.image


def decode_image(source: ImageSource, least: tuple[int, int] | None = None) -> DecodedFile:
    """What `read_image` reads, without a warning.

    Args:
        source: See `read_image`.
        least: (H, W) that are enough: a JPEG that is larger is decoded at 1/2, 1/4 or 1/8 of its size where
            that leaves at least these. None decodes all of it.

    Raises:
        ImageError: See `read_image`.
    """
    if is_masked(source):
        raise ImageError("an image is a masked array, whose mask no model sees: fill it (array.filled(0))")
    if isinstance(source, np.ndarray):
        return _as_it_is(_from_array(source))
    if isinstance(source, Image.Image):
        return _decode(source, str(getattr(source, "filename", "") or "the image"), None)
    if is_stream(source):
        name = str(getattr(source, "name", "") or "the image")
        return _decode(image_bytes(source, name), name, least)
    if not isinstance(source, str | os.PathLike):
        raise ImageError(describe_wrong_type(source))
    path = Path(source)
    name = str(path)
    try:
        if path.is_dir():
            raise ImageError(f"{name}: is a folder, not an image")
        if not path.exists():
            raise ImageError(f"{source}: {describe_missing(source)}")
        if not path.is_file():
            raise ImageError(f"{name}: is not a regular file")
        with path.open("rb") as file:
            return _decode(file, name, least)
    except OSError as error:
        raise ImageError(f"{name}: cannot be read: {error.strerror or error}") from error


def describe_wrong_type(source: Any) -> str:
    """What to say of something that is no image."""
    expected = "expected a file, its bytes, a Pillow image or a uint8 array as image, got "
    if isinstance(source, memoryview):
        return f"{expected}a memoryview: say bytes(view) of a file's bytes, numpy.asarray(view) of pixels"
    if isinstance(source, (list, tuple)):
        return f"{expected}a {type(source).__name__}: numbers for the model go in one array (N, C, H, W)"
    return expected + type(source).__name__


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ImageError(
            f"an image given as an array must be uint8 (H, W, 3) or (H, W), got {array.dtype} "
            f"{array.shape}; numbers for the model go in one array (N, C, H, W), not in a list"
        )
    if 0 in array.shape:
        raise ImageError(f"an image given as an array has no pixels: {array.shape}")
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def _as_it_is(image: Image.Image, guessed: str | None = None) -> DecodedFile:
    return DecodedFile(image, guessed, (image.height, image.width))


def _decode(source: Any, name: str, least: tuple[int, int] | None) -> DecodedFile:
    """The RGB image in an open file or a lazily loaded image, with every failure named."""
    with silence_pillow():
        try:
            if isinstance(source, Image.Image):
                return _as_it_is(*_rgb(source))
            with Image.open(source, formats=readable_formats()) as image:
                refuse_bomb(image)
                full = _reduce(image, least) if least is not None else None
                decoded = _as_it_is(*_rgb(image))
                refuse_bomb(image)  # a few formats say their size only when they are decoded
                return decoded if full is None else replace(decoded, full_size=full)
        except UnidentifiedImageError:
            raise ImageError(f"{name}: {describe_unreadable(source)}") from None
        except Image.DecompressionBombError:
            raise ImageError(
                f"{name}: more than {Image.MAX_IMAGE_PIXELS} pixels, which might be a decompression bomb"
            ) from None
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from None
        except Exception as error:  # damaged files make Pillow's decoders raise almost anything
            raise ImageError(f"{name}: truncated or damaged: {error}") from error


def _reduce(image: Image.Image, least: tuple[int, int]) -> tuple[int, int] | None:
    """Has a JPEG decoded at a part of its size; its own (H, W), upright, or None where nothing changes."""
    if image.format != "JPEG":
        return None
    width, height = image.size
    try:
        is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) in TURNED
    except Exception:  # damaged EXIF, which is no reason to refuse sound pixels
        is_turned = False
    wanted = least if is_turned else least[::-1]
    image.draft(None, wanted)
    if image.size == (width, height):
        return None
    return (width, height) if is_turned else (height, width)


def describe_unreadable(source: Any) -> str:
    """Why an open file is no image."""
    empty = not isinstance(source, Image.Image) and source.seek(0, os.SEEK_END) == 0
    return "empty, it holds not a single byte" if empty else "not an image that Pillow can read"


def _rgb(image: Image.Image) -> tuple[Image.Image, str | None]:
    if 0 in image.size:
        raise ImageError("has no pixels")
    depth = read_bit_depth(image)  # before it is loaded, which forgets it
    image, guessed = to_8_bits(_upright(image), depth)
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        if image.mode == "La":  # Pillow converts premultiplied grey to plain grey alone
            image = image.convert("LA")
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    try:
        return image.convert("RGB"), guessed
    except ValueError:
        raise ImageError(f"pixels of mode {image.mode} have no RGB form") from None


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; as it is, where that cannot be understood."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF is no reason to refuse sound pixels
        return image


def find_images(
    paths: Iterable[str | os.PathLike[str]],
    *,
    on_error: Callable[[ImageError], None] | None = None,
    on_results: Callable[[Path, int], None] | None = None,
) -> Iterator[Path]:
    """The image files among some paths, one by one.

    Folders are walked with their sub-folders, in the order of the names; files in them count by their
    suffix (see `is_image_name`), and names that begin with a dot do not count. Links to folders inside a
    folder are not followed. Images that camrt wrote as results, such as overlays, and noted in their folder,
    are left out. A file that is named itself is always yielded.

    Args:
        paths: Files and folders.
        on_error: Called with each error instead of raising it; the walk then goes on.
        on_results: Called with each folder of which results were left out, and how many images they were.

    Yields:
        Paths, folder by folder.

    Raises:
        ImageError: A path that does not exist, a folder that cannot be listed or holds no image.
    """
    for given in paths:
        path = Path(given)
        try:
            if not path.exists():
                raise ImageError(
                    f"{path}: {describe_missing(given).replace('no such file', 'no such file or folder')}"
                )
            if not path.is_dir():
                yield path
                continue
            empty = True
            results = 0

            def leave_out(folder: Path, count: int) -> None:
                nonlocal results
                results += count
                if on_results is not None:
                    on_results(folder, count)

            for found in _walk(path, on_error, leave_out, frozenset()):
                empty = False
                yield found
            if empty:
                others = f" but {results} that camrt wrote as results" if results else ""
                raise ImageError(f"{path}: no image in this folder{others}")
        except ImageError as error:
            if on_error is None:
                raise
            on_error(error)
        except OSError as error:
            failure = ImageError(f"{path}: cannot be read: {error.strerror or error}")
            if on_error is None:
                raise failure from error
            on_error(failure)


def describe_results(folder: Path, count: int) -> str:
    """What to say of results that `find_images` left out."""
    return f"{folder}: {count} image{'s' * (count != 1)} left out, which camrt wrote as results"


def list_images(folder: Path) -> list[Path]:
    """The images that `find_images` finds in a folder, by their paths; none is no error here.

    Raises:
        ImageError: A folder cannot be listed.
    """
    return sorted(_walk(folder, None, lambda results, count: None, frozenset()))


def list_class_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder that may be classes: those of camrt's results are not."""
    inner = (entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return sorted(entry.name for entry in inner if read_results(entry) is None or list_images(entry))


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; a link that leads in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _walk(
    folder: Path,
    on_error: Callable[[ImageError], None] | None,
    on_results: Callable[[Path, int], None],
    noted: frozenset[str],
) -> Iterator[Path]:
    """The images in a folder and its sub-folders; `noted` in it are results of a folder around it."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted(
                (entry.name, entry.is_dir(follow_symlinks=False), _leads_to_folder(entry))
                for entry in listing
                if not entry.name.startswith(".")
            )
    except OSError as error:
        failure = ImageError(f"{folder}: cannot be listed: {error.strerror or error}")
        if on_error is None:
            raise failure from error
        on_error(failure)
        return
    noted |= read_results(folder) or frozenset()  # after the listing: files are noted before they are written
    images = [name for name, _, leads_to_folder in entries if not leads_to_folder and is_image_name(name)]
    if results := noted.intersection(images):
        on_results(folder, len(results))
    kept = {*images} - results
    for name, is_folder, _ in entries:
        if is_folder:
            inner = frozenset(path.removeprefix(f"{name}/") for path in noted if path.startswith(f"{name}/"))
            yield from _walk(folder / name, on_error, on_results, inner)
        elif name in kept:
            yield folder / name
