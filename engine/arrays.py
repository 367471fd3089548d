"""The library that arrays belong to: arithmetic is written once, for arrays of NumPy and of torch."""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace, device

__all__ = ["at_least", "constant_over_cells", "library", "like", "quietly_divided"]


def library(*arrays: Any) -> Any:
    """The functions of the array API standard for these arrays, where they lie.

    Args:
        arrays: All of one library.
    """
    return array_namespace(*arrays)


def like(values: Any, array: Any) -> Any:
    """Whole numbers of NumPy, brought to the library and the place of an array."""
    return library(array).asarray(values, device=device(array))


def at_least(array: Any, least: float) -> Any:
    """The greater of each number and `least`; NaN stays."""
    xp = library(array)
    return xp.maximum(array, xp.asarray(least, dtype=array.dtype, device=device(array)))


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
