"""The mean of what was drawn, and how far it may be from what it tends to."""

from __future__ import annotations

from typing import Any

from camrt.engine.arrays import clip_min, library

__all__ = ["mean_and_error"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


def mean_and_error(sums: Array, squares: Array, count: int) -> tuple[Array, Array]:
    """The mean of some numbers and its standard error, which is NaN for a single one.

    Args:
        sums: Their sum, float64.
        squares: The sum of their squares.
        count: How many there are.
    """
    xp = library(sums)
    mean = sums / count
    if count == 1:
        return mean, xp.full_like(mean, float("nan"))
    variance = clip_min(squares / count - mean**2, 0.0) / (count - 1)
    return mean, xp.sqrt(variance)
