"""Counting pixels inside and outside an object by their scores, for precision and recall."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camrt.kernels import IMPLEMENTATION
from camrt.kernels.checks import Floats, Ints, thread_count
from camrt.kernels.float_errors import ignore_float_errors
from camrt.kernels.ranking_counts import reference

if IMPLEMENTATION == "native":
    from camrt.kernels import _native

__all__ = ["IGNORED", "Histogram", "average_precision", "histogram"]

IGNORED = 255
"""The mark of a pixel that does not count."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts by score.

    Attributes:
        counts: int64 (2, bins): row 0 outside the object, row 1 in it.
        low: The smallest score, or 0 if that is smaller.
        high: The largest score, or 0 if that is larger.
        ignored: How many pixels do not count.
    """

    counts: Ints
    low: float
    high: float
    ignored: int


@ignore_float_errors
def histogram(scores: Floats, marks: ArrayLike, edges: ArrayLike, *, threads: int | None = None) -> Histogram:
    """Count scores in bins, those outside the object and those in it.

    Bin i holds edges[i] <= score < edges[i + 1], the last one its upper edge too. Scores below the first edge
    or above the last are in none.

    Args:
        scores: Any shape, finite.
        marks: Of the same shape, whole numbers: 1 in the object, 0 outside, 255 not counted.
        edges: Strictly rising, at least two.
        threads: Number of threads; all of the machine's when None.

    Raises:
        ValueError: An argument has a wrong type, shape or value.
    """
    flat, own = check_scores(scores, marks)
    borders = np.ascontiguousarray(edges, dtype=np.float64)
    if borders.ndim != 1 or len(borders) < 2 or not (np.diff(borders) > 0).all():
        raise ValueError("edges must rise, and be at least two")
    workers = thread_count(threads)
    if IMPLEMENTATION == "native" and flat.dtype == np.float32:
        counts = np.zeros((2, len(borders) - 1), np.int64)
        finite, marked, low, high, ignored = _native.score_histogram(flat, own, borders, counts, workers)
        raise_if_invalid(finite, marked)
        return Histogram(counts, low, high, ignored)
    raise_if_invalid(bool(np.isfinite(flat).all()), bool(((own <= 1) | (own == IGNORED)).all()))
    low, high = float(flat.min(initial=0)), float(flat.max(initial=0))
    return Histogram(reference.histogram(flat, own, borders), low, high, int((own == IGNORED).sum()))


@ignore_float_errors
def average_precision(scores: Floats, marks: ArrayLike, *, threads: int | None = None) -> float:
    """Area under precision over recall, with a step for every different score and no interpolation.

    Σ_n P_n (R_n − R_{n−1}) over the different scores from the highest down, P and R counted over all pixels
    of at least that score.

    Args:
        scores: Any shape, finite.
        marks: Of the same shape, whole numbers: 1 in the object, 0 outside, 255 not counted.
        threads: Number of threads; all of the machine's when None.

    Returns:
        In [0, 1].

    Raises:
        ValueError: An argument has a wrong type, shape or value, or nothing is marked 1.
    """
    flat, own = check_scores(scores, marks)
    workers = thread_count(threads)
    native = IMPLEMENTATION == "native" and flat.dtype == np.float32
    if native:
        value, finite, marked, positive = _native.average_precision(flat, own, workers)
    else:
        finite, marked = bool(np.isfinite(flat).all()), bool(((own <= 1) | (own == IGNORED)).all())
        positive = bool((own == 1).any())
    raise_if_invalid(finite, marked)
    if not positive:
        raise ValueError("marks must hold a 1: without positives there is no recall")
    if native:
        return value
    return reference.average_precision(flat, own)


def check_scores(scores: Floats, marks: ArrayLike) -> tuple[Floats, NDArray[np.uint8]]:
    """Scores and marks as flat arrays.

    Raises:
        ValueError: They do not fit.
    """
    if not isinstance(scores, np.ndarray) or scores.dtype not in (np.dtype("f4"), np.dtype("f8")):
        raise ValueError(f"scores must be float32 or float64, got {getattr(scores, 'dtype', type(scores))}")
    own = np.asarray(marks)
    if own.shape != scores.shape or own.dtype.kind not in "biu":
        raise ValueError(f"marks must be whole numbers of shape {scores.shape}, got {own.dtype} {own.shape}")
    if own.dtype.kind != "b" and own.dtype != np.uint8 and own.size and not 0 <= own.min() <= own.max() < 256:
        raise_if_invalid(True, False)
    return np.ascontiguousarray(scores).reshape(-1), np.ascontiguousarray(own, dtype=np.uint8).reshape(-1)


def raise_if_invalid(finite: bool, marked: bool) -> None:
    """Refuse scores that are not finite, and marks that mean nothing.

    Raises:
        ValueError: There are some.
    """
    if not finite:
        raise ValueError("scores must be finite")
    if not marked:
        raise ValueError(f"marks must be 0, 1 or {IGNORED}")
