"""The definitions of `histogram` and `average_precision` in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from camrt.kernels.checks import Floats, Ints
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["average_precision", "histogram"]


@ignore_float_errors
def histogram(scores: Floats, marks: NDArray[np.uint8], edges: NDArray[np.float64]) -> Ints:
    """Compute what `camrt.kernels.ranking_counts.histogram` documents, unchecked."""
    counts = np.zeros((2, len(edges) - 1), np.int64)
    for mark in (0, 1):
        counts[mark], _ = np.histogram(scores[marks == mark].astype(np.float64), edges)
    return counts


@ignore_float_errors
def average_precision(scores: Floats, marks: NDArray[np.uint8]) -> float:
    """Compute what `camrt.kernels.ranking_counts.average_precision` documents, unchecked."""
    counted = marks <= 1
    values, positive = scores[counted], marks[counted].astype(np.int64)
    order = np.argsort(-values, kind="stable")
    values, positive = values[order], positive[order]
    last: NDArray[Any] = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
    hits = np.cumsum(positive)[last]
    gained = np.diff(hits, prepend=0)
    return float(np.sum(gained * (hits / (last + 1))) / hits[-1])
