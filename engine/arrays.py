"""The library that arrays belong to: arithmetic is written once, for arrays of NumPy and of torch.

On an accelerator nothing here but `host` waits for the device or copies anything between it and the host.
Constants are copied there once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace, device, is_numpy_array

from camrt.export.budget import reserve_array
from camrt.kernels.caches import ByteCache

__all__ = [
    "at_least",
    "change_of",
    "constant_over_cells",
    "every_pair",
    "filled",
    "host",
    "joined",
    "library",
    "like",
    "numbered",
    "quietly_divided",
    "repeated",
    "room_for",
    "sent",
    "single",
    "zeros",
]

_CONSTANTS: ByteCache[Any] = ByteCache()
SAME = 2.0**-21  # of a score: four units in the last place of float32, by which two ways to one number part


def library(*arrays: Any) -> Any:
    """The functions of the array API standard for these arrays, where they lie.

    Args:
        arrays: All of one library.
    """
    return array_namespace(*arrays)


def like(values: npt.NDArray[Any], array: Any) -> Any:
    """Constants of NumPy, brought to the library and the place of an array; not to be written to.

    Those that are used again are not copied again.
    """
    if is_numpy_array(array):
        return values
    place = device(array)
    key = (values.tobytes(), values.shape, values.dtype.str, str(place))
    return _CONSTANTS.get(key, lambda: library(array).asarray(values.copy(), device=place))


def numbered(count: int, array: Any) -> Any:
    """0 to count − 1, int64, where an array lies."""
    xp = library(array)
    return xp.arange(count, dtype=xp.int64, device=device(array))


def every_pair(rows: int, columns: int, array: Any) -> tuple[Any, Any]:
    """Row and column indices of all entries of a table, row by row, where an array lies."""
    room_for((3, rows, columns), array, "pairs of a picture and what is altered in it")
    every = numbered(rows * columns, array)
    return every // columns, every % columns


def filled(rows: Any, size: int) -> Any:
    """Rows up to a fixed number, the last one repeated.

    Raises:
        MemoryLimitError: See `zeros`.
    """
    missing = size - len(rows)
    if not missing:
        return rows
    room_for((size, *rows.shape[1:]), rows, "a batch of fixed size", itemsize=rows.dtype.itemsize)
    xp = library(rows)
    return xp.concat([rows, xp.broadcast_to(rows[-1:], (missing, *rows.shape[1:]))])


def joined(parts: Sequence[Any]) -> Any:
    """Blocks of rows as one array; a single one as it is."""
    return parts[0] if len(parts) == 1 else library(*parts).concat(list(parts))


def zeros(shape: tuple[int, ...], array: Any, kind: str = "float32") -> Any:
    """Zeros of the array's library, where it lies.

    Raises:
        MemoryLimitError: They would lie in the host's memory, and the call at hand may not take so much.
    """
    room_for(shape, array, "numbers", itemsize=8 if kind.endswith("64") else 4)
    xp = library(array)
    return xp.zeros(shape, dtype=getattr(xp, kind), device=device(array))


def repeated(array: Any, count: int, axis: int) -> Any:
    """An array of which each slice along an axis follows itself so many times.

    Raises:
        MemoryLimitError: See `zeros`.
    """
    room_for((count, *array.shape), array, "numbers", itemsize=array.dtype.itemsize)
    return library(array).repeat(array, count, axis=axis)


def room_for(shape: Sequence[int], array: Any, what: str, *, itemsize: int = 8) -> None:
    """Asks for memory where an array lies, if that is the host's; a device's is found by running.

    Args:
        shape: Of what will be made there.
        array: The array.
        what: What it is, for the message.
        itemsize: Bytes of an element.

    Raises:
        MemoryLimitError: More than the call at hand may take.
    """
    if is_numpy_array(array) or device(array).type == "cpu":
        reserve_array(shape, what, itemsize=itemsize)


def single(values: Any) -> Any:
    """In float32."""
    xp = library(values)
    return xp.astype(values, xp.float32)


def sent(values: npt.NDArray[Any], array: Any) -> Any:
    """Numbers of NumPy, copied to the library and the place of an array; on a GPU nothing waits for that."""
    if is_numpy_array(array):
        return values
    tensor, place = library(array).from_numpy(values), device(array)
    return tensor.pin_memory().to(place, non_blocking=True) if place.type == "cuda" else tensor.to(place)


def host(values: Any) -> npt.NDArray[Any]:
    """An array of NumPy; a copy where the numbers lie on a device, for which it waits."""
    if is_numpy_array(values):
        return np.asarray(values)
    moved = values.detach().to("cpu") if hasattr(values, "detach") else values
    return np.asarray(moved)


def change_of(scores: Any, since: Any) -> Any:
    """What scores changed by, zero where the two are one number in float32 but for rounding.

    The score of a saturated probability does not change by what is altered; what is left of the difference is
    how its last bit was rounded, and a map of that would look like any other.
    """
    xp = library(scores)
    change = scores - since
    return xp.where(abs(change) <= SAME * abs(since), xp.zeros_like(change), change)  # NaN stays


def at_least(array: Any, least: float) -> Any:
    """The greater of each number and `least`; NaN stays."""
    return array.clip(min=least)


def quietly_divided(above: Any, below: Any, where: Any) -> Any:
    """The quotient of two arrays, and 0 where `where` is false; nothing is divided there.

    Args:
        above: Numbers.
        below: Numbers of the same shape.
        where: Truth values of the same shape.
    """
    xp = library(above, below)
    one, nothing = xp.ones_like(below), xp.zeros_like(below)
    return xp.where(where, above / xp.where(where, below, one), nothing)


def constant_over_cells(gradient: Any) -> bool:
    """Whether a gradient (N, K, h, w) is one number a channel, repeated by strides of zero.

    That is how the gradient of a linear layer behind global pooling is handed on.
    """
    strides = gradient.stride() if hasattr(gradient, "stride") else gradient.strides
    return bool(tuple(strides)[2:] == (0, 0))
