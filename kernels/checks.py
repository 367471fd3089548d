"""The checks that every kernel makes of its arguments before it computes."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camrt.kernels.processors import usable_processors

__all__ = [
    "Floats",
    "Ints",
    "check_boxes",
    "check_floats",
    "check_indices",
    "check_map_size",
    "check_output",
    "thread_count",
]

Floats: TypeAlias = NDArray[np.floating[Any]]
Ints: TypeAlias = NDArray[np.int64]

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def check_floats(name: str, array: Floats, axes: str, dtype: np.dtype[Any] | None = None) -> Floats:
    """Check an array of numbers and make it C-contiguous.

    Args:
        name: What to call the array in an error.
        array: The array.
        axes: The names of its axes separated by spaces, such as "N K h w".
        dtype: The type that it must have; float32 or float64 when not given.

    Returns:
        The array itself, or a contiguous copy.

    Raises:
        ValueError: The type or the number of axes is wrong.
    """
    if not isinstance(array, np.ndarray) or array.dtype not in _FLOATS:
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{name} must be an array of float32 or float64, got {kind}")
    if dtype is not None and array.dtype != dtype:
        raise ValueError(f"{name} must be {dtype} like the other arrays, got {array.dtype}")
    if array.ndim != len(axes.split()):
        raise ValueError(f"{name} must have the axes ({', '.join(axes.split())}), got shape {array.shape}")
    return np.ascontiguousarray(array)


def check_indices(name: str, values: ArrayLike, limit: int, shape: tuple[int, ...]) -> Ints:
    """Check an array of indices.

    Args:
        name: What to call the array in an error.
        values: The indices, of any integer type.
        limit: Every index must lie in 0..limit-1.
        shape: The shape asked for; -1 stands for any length.

    Returns:
        The indices as contiguous int64.

    Raises:
        ValueError: The type, the shape or a value is wrong.
    """
    array = _integers(name, values)
    if array.ndim != len(shape) or any(
        want not in (-1, got) for want, got in zip(shape, array.shape, strict=True)
    ):
        wanted = ", ".join("any" if n < 0 else str(n) for n in shape)
        raise ValueError(f"{name} must have shape ({wanted}), got {array.shape}")
    if array.size and (int(array.min()) < 0 or int(array.max()) >= limit):
        wrong = array[(array < 0) | (array >= limit)].flat[0]
        raise ValueError(f"{name} holds {wrong}, outside 0..{limit - 1}")
    return array


def check_boxes(values: ArrayLike, h: int, w: int) -> Ints:
    """Check half-open boxes (r0, c0, r1, c1) on an h × w map.

    Args:
        values: The boxes, shape (P, 4), of any integer type.
        h: Rows of the map.
        w: Columns of the map.

    Returns:
        The boxes as contiguous int64.

    Raises:
        ValueError: The type or shape is wrong, or a box is empty or leaves the map.
    """
    array = _integers("boxes", values)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes must have shape (P, 4), got {array.shape}")
    r0, c0, r1, c1 = array.T
    wrong = (r0 < 0) | (r1 <= r0) | (r1 > h) | (c0 < 0) | (c1 <= c0) | (c1 > w)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"boxes[{first}] is {tuple(array[first].tolist())}; (r0, c0, r1, c1) must satisfy "
            f"0 <= r0 < r1 <= {h} and 0 <= c0 < c1 <= {w}"
        )
    return array


def check_output(
    name: str, out: Floats, shape: tuple[int, ...], dtype: np.dtype[Any], *inputs: Floats
) -> Floats:
    """Check an array that a kernel is to write into.

    Args:
        name: What to call the array in an error.
        out: The array.
        shape: The shape it must have.
        dtype: The type it must have.
        inputs: Arrays that it must not overlap.

    Returns:
        The array itself.

    Raises:
        ValueError: Its shape, type or layout is wrong, or it overlaps an input.
    """
    if not isinstance(out, np.ndarray):
        raise ValueError(f"{name} must be an array, got {type(out).__name__}")
    if out.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {out.shape}")
    if out.dtype != dtype:
        raise ValueError(f"{name} must be {dtype}, got {out.dtype}")
    if not out.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous, got strides {out.strides}")
    if not out.flags.writeable:
        raise ValueError(f"{name} must be writeable")
    if any(np.may_share_memory(out, other) for other in inputs):
        raise ValueError(f"{name} must not overlap the arrays that are read")
    return out


def check_map_size(name: str, h: int, w: int) -> None:
    """Refuse a map without cells.

    Args:
        name: What to call the map in an error.
        h: Its rows.
        w: Its columns.

    Raises:
        ValueError: One of them is less than 1.
    """
    if h < 1 or w < 1:
        raise ValueError(f"{name} must have at least one row and one column, got {h} x {w}")


def thread_count(threads: int | None) -> int:
    """Return the number of threads to use.

    Args:
        threads: The number asked for; one a processor that may be used when None.

    Raises:
        ValueError: It is less than 1.
    """
    if threads is None:
        return usable_processors()
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    return int(threads)


def _integers(name: str, values: ArrayLike) -> Ints:
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{name} must hold integers, got {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.int64)
