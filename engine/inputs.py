"""Checking what callers pass in: batches, target classes, map sizes."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from camrt.engine.pictures import read_picture
from camrt.engine.preprocessing import Preprocessing
from camrt.errors import InputError, TargetError
from camrt.export.interface import Interface

__all__ = ["Pictures", "map_size", "prepare", "target_classes"]

Array = npt.NDArray[Any]
LONGEST_SIDE = 16384  # of a map asked for: far above any picture worth drawing on, below what fills a memory
Pictures = Any  # a float array (N, C, H, W), or pictures: paths, Pillow images, uint8 arrays (H, W, 3)


def prepare(
    batch: Pictures, interface: Interface, preprocessing: Preprocessing | None
) -> tuple[Array, tuple[Image.Image, ...] | None]:
    """A batch as the model takes it, and, when pictures were given, what the model sees of each.

    Raises:
        InputError: Wrong type, shape or size, an empty batch, or values that are not finite.
        PictureError: A picture cannot be read.
    """
    if isinstance(batch, (str, Path, Image.Image)):
        batch = [batch]
    if isinstance(batch, Sequence):
        return from_pictures(batch, interface, preprocessing)
    if not hasattr(batch, "__array__"):
        raise InputError(
            f"a batch is a float32 array (N, C, H, W) or a list of pictures, not {type(batch).__name__}"
        )
    array = np.asarray(batch)
    if array.dtype.kind != "f":
        raise InputError(
            f"a batch array holds float32 model inputs, this one {array.dtype}; "
            "for raw pixels pass a list of pictures, so that the model's preprocessing is applied"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is refused below
        array = np.ascontiguousarray(array, dtype=np.float32)
    check_batch(array, interface)
    return array, None


def from_pictures(
    batch: Sequence[Any], interface: Interface, preprocessing: Preprocessing | None
) -> tuple[Array, tuple[Image.Image, ...]]:
    """Reads, views and normalises a list of pictures."""
    if not len(batch):
        raise InputError("the batch is empty: it has no pictures")
    if preprocessing is None:
        raise InputError(
            "this model's preprocessing is not known, so pictures cannot be made into its input: pass "
            "preprocessing= to camrt.load ('imagenet', 'imagenet-squash', 'tf', 'unit' or a "
            "camrt.Preprocessing), or pass a float32 array (N, C, H, W)"
        )
    views = tuple(preprocessing.view(read_picture(source)) for source in batch)
    array = np.stack([preprocessing.array(view) for view in views])
    check_batch(array, interface)
    return array, views


def check_batch(array: Array, interface: Interface) -> None:
    """Refuses a batch that this model cannot take."""
    wanted = f"(N, {interface.channels}, {interface.height or 'H'}, {interface.width or 'W'})"
    if array.ndim != 4:
        hint = "; one picture is a batch of one: picture[None]" if array.ndim == 3 else ""
        raise InputError(f"a batch has shape {wanted}, this one {array.shape}{hint}")
    if not len(array):
        raise InputError(f"the batch is empty: its shape is {array.shape}")
    if array.shape[1] != interface.channels:
        raise InputError(
            f"the model takes {interface.channels} colour channels, this batch has {array.shape[1]}: "
            f"its shape {array.shape} should be {wanted}"
        )
    for axis, size, name in ((2, interface.height, "height"), (3, interface.width, "width")):
        if array.shape[axis] == 0 or (size is not None and array.shape[axis] != size):
            raise InputError(
                f"the model takes pictures of {name} {size or '> 0'}, this batch has {array.shape[axis]}: "
                f"its shape {array.shape} should be {wanted}"
            )
    with np.errstate(over="ignore", invalid="ignore"):
        suspect = not np.isfinite(array.sum())  # one quick pass; huge but finite values may trip it too
    bad = np.flatnonzero(~np.isfinite(array).all(axis=(1, 2, 3))) if suspect else np.empty(0)
    if bad.size:
        raise InputError(
            f"the batch holds NaN or infinity in picture{'s' if len(bad) > 1 else ''} "
            f"{', '.join(map(str, bad[:10]))}{', …' if len(bad) > 10 else ''}"
        )


def target_classes(targets: Any, logits: Array) -> tuple[npt.NDArray[np.int64], bool]:
    """Target classes as (N, T), and whether the caller thinks of them as (N, T) rather than (N,).

    Raises:
        TargetError: Not whole numbers, of the wrong shape, or out of range.
    """
    count, classes = logits.shape
    if targets is None:
        return logits.argmax(axis=1).astype(np.int64)[:, None], False
    try:
        array = np.asarray(targets)
    except ValueError as error:
        raise TargetError(f"targets have rows of different lengths, or are no array: {error}") from error
    if array.dtype.kind not in "iu":
        raise TargetError(f"targets are class indices (whole numbers), these are {array.dtype}")
    if array.ndim == 0:
        array = np.full(count, array)
    if array.ndim not in (1, 2) or len(array) != count or array.size == 0:
        raise TargetError(
            f"targets have shape {array.shape}; for a batch of {count} give None, one class, "
            f"({count},) or ({count}, T)"
        )
    if array.min() < 0 or array.max() >= classes:
        wrong = array[(array < 0) | (array >= classes)].flat[0]
        raise TargetError(f"class {wrong} is out of range: the model has classes 0 to {classes - 1}")
    several = array.ndim == 2
    return np.ascontiguousarray(array if several else array[:, None], dtype=np.int64), several


def map_size(
    size: Literal["image", "map"] | tuple[int, int], image: tuple[int, int], cells: tuple[int, int]
) -> tuple[int, int]:
    """The (H, W) that saliency maps are wanted at.

    Raises:
        InputError: Not "image", "map" or two positive whole numbers, or too large.
    """
    if isinstance(size, str) and size in ("image", "map"):
        return image if size == "image" else cells
    try:
        height, width = (index(value) for value in (() if isinstance(size, str) else size))
    except (TypeError, ValueError):
        height = width = 0
    if not (1 <= height <= LONGEST_SIDE and 1 <= width <= LONGEST_SIDE):
        raise InputError(
            f"size={size!r} must be 'image', 'map' or (height, width) in pixels, each 1 to {LONGEST_SIDE}"
        )
    return height, width
