"""NumPy's arithmetic on numbers that need not be finite, without NumPy's warnings of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np

__all__ = ["ignore_float_errors"]

P = ParamSpec("P")
R = TypeVar("R")


def ignore_float_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function compute in silence with NaN, infinities and numbers near the ends of a type.

    What is not finite is a result like any other here, and callers look for it in the result. NumPy warns of
    it, or raises, by the processor's floating-point flags, and which of them are set differs by processor:
    matrix products of some set "invalid" for lanes that hold no result. What a caller has set with
    `numpy.errstate`, or made of warnings, holds for the caller's own arithmetic alone.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    call.ignores_float_errors = True  # type: ignore[attr-defined]  # tests look for it
    return call
