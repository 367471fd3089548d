"""The library that arrays belong to: arithmetic is written once, for arrays of NumPy and of torch.

On an accelerator nothing here but `to_numpy` waits for the device or copies anything between it and the host.
Constants are copied there once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace, device, is_numpy_array, is_torch_array

from camrt.engine.extras import find_imported
from camrt.errors import MemoryLimitError
from camrt.export.budget import reserve_array
from camrt.kernels.dispatch import backend_of, constant_like

__all__ = [
    "SCORE_TOLERANCE",
    "all_index_pairs",
    "arange_like",
    "clip_min",
    "concat",
    "constant_like",
    "is_constant_over_cells",
    "is_masked",
    "library",
    "out_of_memory_errors",
    "pad_rows",
    "release_memory",
    "repeat",
    "reserve_for",
    "safe_divide",
    "score_change",
    "to_device_async",
    "to_float32",
    "to_numpy",
    "zeros",
]

SCORE_TOLERANCE = 2.0**-21
"""Of a score: four units in the last place of float32, by which two ways to one number part."""


def library(*arrays: Any) -> Any:
    """The functions of the array API standard for these arrays, where they lie.

    NumPy's own for its arrays: array-api-compat's copy of NumPy imports all of it, its tests included.

    Args:
        arrays: All of one library.
    """
    if type(arrays[0]) is np.ndarray:  # asked for many times a map
        return np
    return np if all(map(is_numpy_array, arrays)) else array_namespace(*arrays)


def is_masked(values: Any) -> bool:
    """Whether something is a masked array; `numpy.ma` is slow to import, and whoever has one has done it."""
    masked = find_imported("numpy.ma", "MaskedArray")
    return masked is not None and isinstance(values, masked)


def arange_like(count: int, array: Any) -> Any:
    """0 to count − 1, int64, where an array lies."""
    xp = library(array)
    return xp.arange(count, dtype=xp.int64, device=device(array))


def all_index_pairs(rows: int, columns: int, array: Any) -> tuple[Any, Any]:
    """Row and column indices of every entry of a (rows, columns) table, on the device of `array`."""
    reserve_for((3, rows, columns), array, "pairs of an image and what is altered in it")
    every = arange_like(rows * columns, array)
    return every // columns, every % columns


def pad_rows(rows: Any, size: int) -> Any:
    """Rows up to a fixed number, the last one repeated.

    Raises:
        MemoryLimitError: See `zeros`.
    """
    missing = size - len(rows)
    if not missing:
        return rows
    reserve_for((size, *rows.shape[1:]), rows, "a batch of fixed size", itemsize=rows.dtype.itemsize)
    xp = library(rows)
    return xp.concat([rows, xp.broadcast_to(rows[-1:], (missing, *rows.shape[1:]))])


def concat(parts: Sequence[Any]) -> Any:
    """Blocks of rows as one array; a single one as it is."""
    return parts[0] if len(parts) == 1 else library(*parts).concat(list(parts))


def zeros(shape: tuple[int, ...], array: Any, kind: str = "float32") -> Any:
    """Zeros of the array's library, where it lies.

    Raises:
        MemoryLimitError: They would lie in the host's memory, and the call at hand may not take so much.
    """
    reserve_for(shape, array, "numbers", itemsize=8 if kind.endswith("64") else 4)
    xp = library(array)
    return xp.zeros(shape, dtype=getattr(xp, kind), device=device(array))


def repeat(array: Any, count: int, axis: int) -> Any:
    """An array of which each slice along an axis follows itself so many times.

    Raises:
        MemoryLimitError: See `zeros`.
    """
    reserve_for((count, *array.shape), array, "numbers", itemsize=array.dtype.itemsize)
    return library(array).repeat(array, count, axis=axis)


def reserve_for(shape: Sequence[int], array: Any, what: str, *, itemsize: int = 8) -> None:
    """Checks the host memory limit for an array of this shape; device memory is not checked.

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


def out_of_memory_errors(array: Any) -> tuple[type[Exception], ...]:
    """What is raised where memory is short for arrays like this one; less may fit."""
    return (
        (MemoryLimitError, sys.modules["torch"].OutOfMemoryError)
        if is_torch_array(array)
        else (MemoryLimitError,)
    )


def release_memory(array: Any) -> None:
    """Gives back memory that torch holds for later, if an array lies on a GPU."""
    if backend_of(array) == "gpu":
        sys.modules["torch"].cuda.empty_cache()


def to_float32(values: Any) -> Any:
    """Casts an array to float32."""
    xp = library(values)
    return xp.astype(values, xp.float32)


def to_device_async(values: npt.NDArray[Any], array: Any) -> Any:
    """Numbers of NumPy, copied to the library and the place of an array; on a GPU nothing waits for that."""
    if is_numpy_array(array):
        return values
    tensor, place = library(array).from_numpy(values), device(array)
    return tensor.pin_memory().to(place, non_blocking=True) if place.type == "cuda" else tensor.to(place)


def to_numpy(values: Any) -> npt.NDArray[Any]:
    """An array of NumPy; a copy where the numbers lie on a device, for which it waits."""
    if is_numpy_array(values):
        return np.asarray(values)
    moved = values.detach().to("cpu") if hasattr(values, "detach") else values
    return np.asarray(moved)


def score_change(scores: Any, baseline: Any) -> Any:
    """What scores changed by, zero where the two are one number in float32 but for rounding.

    The score of a saturated probability does not change by what is altered; what is left of the difference is
    how its last bit was rounded, and a map of that would look like any other.
    """
    xp = library(scores)
    change = scores - baseline
    return xp.where(
        abs(change) <= SCORE_TOLERANCE * abs(baseline), xp.zeros_like(change), change
    )  # NaN stays


def clip_min(array: Any, least: float) -> Any:
    """The greater of each number and `least`; NaN stays."""
    return array.clip(min=least)


def safe_divide(numerator: Any, denominator: Any, where: Any) -> Any:
    """The quotient of two arrays, and 0 where `where` is false; nothing is divided there.

    Args:
        numerator: Numbers.
        denominator: Numbers of the same shape.
        where: Truth values of the same shape.
    """
    xp = library(numerator, denominator)
    one, zero = xp.ones_like(denominator), xp.zeros_like(denominator)
    return xp.where(where, numerator / xp.where(where, denominator, one), zero)


def is_constant_over_cells(gradient: Any) -> bool:
    """Whether a gradient (N, K, h, w) is one number a channel, repeated by strides of zero.

    That is how the gradient of a linear layer behind global pooling is handed on.
    """
    strides = gradient.stride() if hasattr(gradient, "stride") else gradient.strides
    return bool(tuple(strides)[2:] == (0, 0))
