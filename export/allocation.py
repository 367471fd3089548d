"""Arrays whose size a file decides, made only where a call may take so much (`camrt.export.budget`).

The code that reads graphs makes arrays by these alone, where their size is not a number written there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from camrt.export.budget import reserve_array

__all__ = ["arange", "broadcast_to", "diagonal", "eye", "matmul", "ones", "zeros"]

Array = npt.NDArray[Any]
Shape = int | Sequence[int]


def reserved_shape(shape: Shape, what: str, dtype: npt.DTypeLike) -> tuple[int, ...]:
    """A shape whose memory was asked for."""
    sizes = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    reserve_array(sizes, what, itemsize=np.dtype(dtype).itemsize)
    return tuple(int(size) for size in sizes)


def zeros(shape: Shape, what: str, dtype: npt.DTypeLike = np.float64) -> Array:
    """Zeros.

    Args:
        shape: Their shape.
        what: What they are, for the message.
        dtype: Their type.

    Raises:
        MemoryLimitError: More than the call at hand may take; so for all functions here.
    """
    return np.zeros(reserved_shape(shape, what, dtype), dtype)


def ones(shape: Shape, what: str, dtype: npt.DTypeLike = np.float64) -> Array:
    """Ones; see `zeros`."""
    return np.ones(reserved_shape(shape, what, dtype), dtype)


def arange(count: int, what: str, dtype: npt.DTypeLike = np.int64) -> Array:
    """0 to count − 1; see `zeros`."""
    reserved_shape(count, what, dtype)
    made: Array = np.arange(count, dtype=dtype)
    return made


def eye(size: int, what: str) -> Array:
    """The identity matrix of a size; see `zeros`."""
    reserved_shape((size, size), what, np.float64)
    return np.eye(size)


def diagonal(values: Array, what: str) -> Array:
    """The square matrix with these values on its diagonal; see `zeros`."""
    reserved_shape((len(values), len(values)), what, values.dtype)
    return np.diag(values)


def broadcast_to(values: Array, shape: Sequence[int], what: str) -> Array:
    """An array broadcast to a shape, each element by itself; see `zeros`.

    Raises:
        ValueError: It cannot be broadcast so.
    """
    return np.array(np.broadcast_to(values, reserved_shape(shape, what, values.dtype)))


def matmul(left: Array, right: Array, what: str) -> Array:
    """The product of a matrix and another one, or a vector, in float64; see `zeros`."""
    reserved_shape((*left.shape[:-1], *right.shape[1:]), what, np.float64)
    made: Array = left.astype(np.float64) @ right.astype(np.float64)
    return made
