"""What callers pass in: batches and map sizes; and giving back arrays of the same kind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import index
from typing import Any, Literal

import numpy as np
from array_api_compat import is_numpy_array, is_torch_array
from PIL import Image

from camrt.engine.arrays import concat, is_masked, library, to_numpy
from camrt.engine.device import Device
from camrt.engine.images.framing import MAX_MAP_SIDE, Framing
from camrt.engine.images.preprocess import NAMES, Preprocessing
from camrt.engine.images.read import ImageSource, read_image
from camrt.engine.images.streams import is_open_file, is_stream
from camrt.engine.preprocess_adaptation import Levels
from camrt.engine.range_check import warn_of_range
from camrt.errors import InputError
from camrt.export.budget import reserve_array
from camrt.export.rewrites.input_form import INTEGER_RANGES
from camrt.export.rewrites.interface import Interface
from camrt.kernels.dispatch import host_readable
from camrt.kernels.fork_safety import check_torch_threads

__all__ = [
    "MapSize",
    "PreparedBatch",
    "check_real_numbers",
    "join_batches",
    "prepare_batch",
    "require_preprocessing",
    "resolve_map_size",
]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
MapSize = Literal["image", "map", "original"] | tuple[int, int]  # of maps


@dataclass(frozen=True, eq=False)
class PreparedBatch:
    """A batch as the model takes it.

    Attributes:
        images: (N, C, H, W) float32, where the engine computes.
        to_caller: Converts results to the caller's array library and device.
        views: What the model sees of each image, where images were passed.
        framings: Which part of each image that is, where images were passed.
        nan_rows: (N,) rows with NaN or infinity, for batches on a device, which are not refused; None for
            batches on the host, which are.
        sources: The images as they were passed; None for each that is an open file, which may be closed.
    """

    images: Array
    to_caller: Callable[[Array], Any]
    views: tuple[Image.Image, ...] | None
    framings: tuple[Framing, ...] | None
    nan_rows: Array | None
    sources: tuple[ImageSource | None, ...] | None = None


def join_batches(batches: Sequence[PreparedBatch]) -> PreparedBatch:
    """Several batches as one, which is answered with arrays of NumPy.

    Args:
        batches: All of images that were passed, or all of arrays.
    """

    def joined(parts: Iterable[tuple[Any, ...] | None]) -> tuple[Any, ...] | None:
        known = [part for part in parts if part is not None]
        return tuple(chain.from_iterable(known)) if known else None

    broken = [batch.nan_rows for batch in batches if batch.nan_rows is not None]
    return PreparedBatch(
        concat([batch.images for batch in batches]),
        to_numpy,
        joined(batch.views for batch in batches),
        joined(batch.framings for batch in batches),
        concat(broken) if broken else None,
        joined(batch.sources for batch in batches),
    )


def prepare_batch(
    batch: Any,
    interface: Interface,
    preprocessing: Preprocessing | None,
    device: Device,
    levels: Levels | None = None,
) -> PreparedBatch:
    """A batch as the model takes it, where the engine computes.

    What lies on a device is not looked at, for that would be to wait for it.

    Args:
        batch: What a caller passed; a batch that was prepared before is left as it is.
        interface: What the model takes.
        preprocessing: How images become that, where it is known.
        device: Where the engine computes.
        levels: The lowest and the highest number that the model is made for, where it is known.

    Raises:
        InputError: Wrong type, shape or size, an empty batch, or values that are not finite.
        ImageError: An image cannot be read.
    """
    if isinstance(batch, PreparedBatch):
        check_shape(batch.images, interface)
        return batch
    refuse_views(batch, "the batch")
    if is_single_image(batch):
        batch = [batch]
    if isinstance(batch, Sequence):
        array, views, framings = read_images(batch, interface, preprocessing)
        sources = tuple(None if is_open_file(one) else one for one in batch)
        return PreparedBatch(device.put(array), to_numpy, views, framings, None, sources)
    held = INTEGER_RANGES.get(interface.element)
    raw = held is not None or (levels is not None and levels[0] == 0 and levels[1] >= 255)
    array, give = read_array(batch, device, raw)
    check_shape(array, interface)
    images = device.put(array)
    seen = next((one for one in (array, images) if host_readable(one)), None)
    if seen is not None:
        check_values(seen)
        warn_of_range(seen, held if levels is None else levels)
        return PreparedBatch(images, give, None, None, None)
    xp = library(images)
    return PreparedBatch(images, give, None, None, ~xp.all(xp.isfinite(images), axis=(1, 2, 3)))


def is_single_image(batch: Any) -> bool:
    """Whether it is one image by itself: a path, a file or its bytes, 8-bit pixels (H, W, 3) or (H, W)."""
    if isinstance(batch, np.ndarray):
        is_colour = batch.ndim == 3 and batch.shape[2] == 3
        return batch.dtype == np.uint8 and (is_colour or batch.ndim == 2)
    return isinstance(batch, (str, os.PathLike, Image.Image)) or is_stream(batch)


def read_array(batch: Any, device: Device, raw: bool) -> tuple[Array, Callable[[Array], Any]]:
    """A batch that is an array, as float32, of NumPy or of torch; and what makes others of the same kind.

    Args:
        batch: The array.
        device: Where the engine computes.
        raw: Whether whole numbers are taken, because the model is made for pixels as they are.

    Raises:
        InputError: It is no array of floating-point numbers, nor of whole ones where those are taken.
    """
    if is_torch_array(batch):
        check_torch_threads()
        xp = library(batch)
        if not (batch.is_floating_point() or (raw and xp.isdtype(batch.dtype, "integral"))):
            raise dtype_error(batch.dtype)
        there = batch.device
        return batch.detach().float().contiguous(), lambda array: to_tensor(array).to(there)
    if not is_numpy_array(batch) and hasattr(batch, "__dlpack__"):
        return read_dlpack(batch, device, raw)
    if not hasattr(batch, "__array__"):
        hint = "; make a list of it first" if isinstance(batch, Iterable) else ""
        raise InputError(
            f"a batch is a float32 array (N, C, H, W) or a list of images, not {type(batch).__name__}{hint}"
        )
    array = np.asarray(batch)
    if array.dtype.kind not in ("fiu" if raw else "f"):
        raise dtype_error(array.dtype)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is refused later
        return np.ascontiguousarray(array, dtype=np.float32), to_numpy


def read_dlpack(batch: Any, device: Device, raw: bool) -> tuple[Array, Callable[[Array], Any]]:
    """An array of another library, through DLPack: taken where it lies, and given back to that library."""
    try:
        taken = device.from_dlpack(batch)
    except Exception as error:
        raise InputError(
            f"the batch, a {type(batch).__name__}, cannot be taken through DLPack: {error}"
        ) from error
    array, back = read_array(taken, device, raw)
    try:
        theirs = library(batch).from_dlpack
    except (TypeError, AttributeError):  # it is no library that is known: what is given is a producer as well
        return array, back
    return array, lambda values: theirs(back(values))


def to_tensor(array: Array) -> Any:
    """An array as a tensor; this is reached by tensors' callers only, so that torch is there."""
    import torch

    return torch.from_numpy(array) if is_numpy_array(array) else array


def dtype_error(dtype: Any) -> InputError:
    if getattr(dtype, "kind", "") in "OSU":
        return InputError(
            f"a batch array holds float32 model inputs, this one {dtype}; images and their paths go in a "
            "list: list(batch)"
        )
    return InputError(
        f"a batch array holds float32 model inputs, this one {dtype}; "
        "for raw pixels pass a list of images, so that the model's preprocessing is applied"
    )


def refuse_views(values: Any, what: str) -> None:
    """Refuses arrays whose numbers are not what they seem.

    Raises:
        InputError: A masked array, of which the mask would be lost; or a view of memory, which might be a
            file's bytes or numbers.
    """
    if is_masked(values):
        raise InputError(f"{what}: a masked array, whose mask no model sees; fill it (array.filled(0))")
    if isinstance(values, memoryview):
        raise InputError(
            f"{what}: a memoryview; say numpy.asarray(view) of numbers, bytes(view) of an image's file"
        )


def check_real_numbers(values: Any, what: str, classes: int) -> Array:
    """An array (..., C) of real numbers, of NumPy or of torch; lists of numbers become one of NumPy.

    Args:
        values: What a caller passed, or a function of the caller's gave.
        what: What it is, for messages.
        classes: C.

    Raises:
        InputError: It is none.
    """
    refuse_views(values, what)
    if isinstance(values, (list, tuple)):
        try:
            values = np.asarray(values)
        except ValueError as error:
            raise InputError(f"{what}: rows of different lengths, or no array: {error}") from error
    if not (is_numpy_array(values) or hasattr(values, "__dlpack__")) or not hasattr(values, "dtype"):
        raise InputError(f"{what} must be an array (..., {classes}), not {type(values).__name__}")
    kinds = ("integral", "real floating")
    if not library(values).isdtype(values.dtype, kinds):
        raise InputError(f"{what} must be of real numbers, not of {values.dtype}")
    if not values.ndim or values.shape[-1] != classes:
        raise InputError(f"{what} must have shape (..., {classes}), not {tuple(values.shape)}")
    return values


def read_images(
    batch: Sequence[Any], interface: Interface, preprocessing: Preprocessing | None
) -> tuple[Array, tuple[Image.Image, ...], tuple[Framing, ...]]:
    """Reads, views and normalises a list of images; also which part of each the view shows."""
    if not len(batch):
        raise InputError("the batch is empty: it has no images")
    preprocessing = require_preprocessing(preprocessing, ", or pass a float32 array (N, C, H, W)")
    reserve_array((2, len(batch), preprocessing.channels, *preprocessing.size), "the batch of images")
    views, framings = [], []
    for source in batch:
        image = read_image(source)
        views.append(preprocessing.view(image))
        framings.append(preprocessing.framing((image.height, image.width)))
    array = np.stack([preprocessing.array(view) for view in views])
    check_shape(array, interface)
    check_values(array)
    return array, tuple(views), tuple(framings)


def require_preprocessing(preprocessing: Preprocessing | None, otherwise: str = "") -> Preprocessing:
    """How images become a model's input.

    Args:
        preprocessing: It, where it is known.
        otherwise: What else a caller can do.

    Raises:
        InputError: It is not known.
    """
    if preprocessing is None:
        raise InputError(
            "this model's preprocessing is not known, so images cannot be made into its input: pass "
            f"preprocessing= to camrt.load ({', '.join(map(repr, NAMES))} or a "
            f"camrt.Preprocessing){otherwise}"
        )
    return preprocessing


def check_shape(array: Array, interface: Interface) -> None:
    """Refuses a batch of a shape that this model cannot take."""
    wanted = f"(N, {interface.channels}, {interface.height or 'H'}, {interface.width or 'W'})"
    if array.ndim != 4:
        hint = "; one image is a batch of one: image[None]" if array.ndim == 3 else ""
        raise InputError(f"a batch has shape {wanted}, this one {tuple(array.shape)}{hint}")
    if not len(array):
        raise InputError(f"the batch is empty: its shape is {tuple(array.shape)}")
    if array.shape[1] != interface.channels:
        last = array.shape[3] == interface.channels
        hint = "; these are last: batch.transpose(0, 3, 1, 2) brings them there" if last else ""
        raise InputError(
            f"the model takes {interface.channels} colour channels, this batch has {array.shape[1]}: "
            f"its shape {tuple(array.shape)} should be {wanted}{hint}"
        )
    for axis, size, name in ((2, interface.height, "height"), (3, interface.width, "width")):
        if array.shape[axis] == 0 or (size is not None and array.shape[axis] != size):
            raise InputError(
                f"the model takes images of {name} {size or '> 0'}, this batch has {array.shape[axis]}: "
                f"its shape {tuple(array.shape)} should be {wanted}"
            )


def check_values(array: Array) -> None:
    """Refuses a batch whose values are not finite."""
    xp = library(array)
    with np.errstate(over="ignore", invalid="ignore"):
        suspect = not xp.isfinite(xp.sum(array))  # one quick pass; huge but finite values may trip it too
    bad = np.flatnonzero(~to_numpy(xp.all(xp.isfinite(array), axis=(1, 2, 3)))) if suspect else np.empty(0)
    if bad.size:
        raise InputError(
            f"the batch holds NaN or infinity in image{'s' if len(bad) > 1 else ''} "
            f"{', '.join(map(str, bad[:10]))}{', …' if len(bad) > 10 else ''}"
        )


def resolve_map_size(
    size: MapSize,
    input_size: tuple[int, int],
    cells: tuple[int, int],
    framings: Sequence[Framing] | None = None,
) -> tuple[int, int]:
    """The (H, W) that saliency maps are wanted at.

    Args:
        size: What was asked for.
        input_size: (H, W) of the model's input.
        cells: (h, w) of the maps before they are resized.
        framings: Which part of each image the input shows, where images were passed.

    Raises:
        InputError: Not "image", "map", "original" or two positive whole numbers, or too large; or "original"
            of numbers, or of images of several sizes.
    """
    if isinstance(size, str) and size in ("image", "map"):
        return input_size if size == "image" else cells
    if isinstance(size, str) and size == "original":
        sizes = sorted({framing.size for framing in framings or ()})
        if not sizes:
            raise InputError("size='original' is for images: a batch of numbers has no other size")
        if len(sizes) > 1:
            several = ", ".join(f"{height}×{width}" for height, width in sizes[:5])
            raise InputError(
                f"size='original' is for images of one size, and these have {several}: explain them one by "
                "one, or take explanation.on_original(i) of each"
            )
        size = sizes[0]
    try:
        height, width = (index(value) for value in (() if isinstance(size, str) else size))
    except (TypeError, ValueError):
        height = width = 0
    if not (1 <= height <= MAX_MAP_SIDE and 1 <= width <= MAX_MAP_SIDE):
        raise InputError(
            f"size={size!r} must be 'image', 'map', 'original' or (height, width) in pixels, each 1 to "
            f"{MAX_MAP_SIDE}"
        )
    return height, width
