"""Rows of a batch whose logits are not finite, and what is made of them: NaN."""

from __future__ import annotations

from typing import Any

from camrt.engine.arrays import is_constant_over_cells, library
from camrt.kernels.dispatch import host_readable

__all__ = ["fill_nan_rows", "find_nan_rows"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


def find_nan_rows(logits: Array) -> Array:
    """Whether any of a row's logits is not finite."""
    xp = library(logits)
    return ~xp.all(xp.isfinite(logits), axis=1)


def fill_nan_rows(numbers: Array, broken: Array) -> Array:
    """Fills the marked rows of an array (N, ...) with NaN.

    `Where` nodes can mask non-finite values, so results of such rows cannot be trusted.
    """
    if host_readable(numbers) and not broken.any():
        return numbers
    xp = library(numbers)
    flat = numbers.ndim == 4 and is_constant_over_cells(numbers)
    held = numbers[:, :, :1, :1] if flat else numbers
    marks = xp.reshape(broken, (len(broken), *([1] * (numbers.ndim - 1))))
    marked = xp.where(marks, xp.full_like(held, float("nan")), held)
    return xp.broadcast_to(marked, numbers.shape) if flat else marked
