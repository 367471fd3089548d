"""PxAP: does a map tell the object's pixels from all others, over the pixels of a whole data set?

"Evaluating Weakly Supervised Object Localization Methods Right" (CVPR 2020, arXiv:2001.07437), section 3.4
(specification C4): average precision over the pooled pixels of all maps. The benchmark's code computes it on
scores cut into bins of 0.001; here it is exact unless that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camrt.errors import InputError
from camrt.kernels import ranking_counts
from camrt.kernels.float_errors import ignore_float_errors
from camrt.kernels.ranking_counts import IGNORED

__all__ = [
    "EDGES",
    "IGNORED",
    "PixelCounts",
    "PixelPrecision",
    "average_precision",
    "binned_average_precision",
    "histogram",
    "pxap",
]

Definition = Literal["exact", "reference"]
Counts = NDArray[np.int64]

EDGES: NDArray[np.float64] = np.append(np.arange(0, 1, 0.001), [1.0, 2.0, 3.0])
"""The benchmark's bins: [0, .001), ..., [.999, 1), [1, 2), [2, 3]."""


@dataclass(frozen=True, eq=False)
class PixelPrecision:
    """How well pixels were told apart.

    Attributes:
        value: PxAP, in [0, 100].
        definition: "exact" or "reference".
        precision: (bins,) at the benchmark's thresholds, from the highest down; NaN where nothing is above.
        recall: (bins,) likewise.
        positives: How many pixels lie in objects.
        negatives: How many lie outside.
        ignored: How many did not count.
        images: How many maps.
    """

    value: float
    definition: Definition
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    positives: int
    negatives: int
    ignored: int
    images: int


class PixelCounts:
    """Takes maps and masks some at a time, and gives their pooled PxAP in the end.

    "reference" keeps counts alone; "exact" keeps five bytes a pixel, since it sorts them all.
    """

    def __init__(self, definition: Definition = "exact") -> None:
        if definition not in ("exact", "reference"):
            raise InputError(f"definition={definition!r} must be 'exact' or 'reference'")
        self.definition = definition
        self.counts: Counts = np.zeros((2, len(EDGES) - 1), np.int64)
        self.ignored = 0
        self.images = 0
        self._scores: list[NDArray[np.float32]] = []
        self._marks: list[NDArray[np.uint8]] = []

    def add(self, maps: ArrayLike, masks: ArrayLike) -> None:
        """Takes some maps and their masks.

        Args:
            maps: Real (N, H, W) in [0, 1], taken as float32.
            masks: (N, H, W) or N of (H, W): 1 (or True) in the object, 0 outside, 255 where it does not
                count.

        Raises:
            InputError: Shapes that do not fit, or values outside [0, 1] or other marks.
        """
        self.take(maps, masks, copy=True)

    def take(self, maps: ArrayLike, masks: ArrayLike, *, copy: bool) -> None:
        """What `add` does; without a copy the arrays must not change before the result is asked for."""
        scores, marks = np.asarray(maps), np.asarray(masks)
        if scores.ndim != 3 or marks.shape != scores.shape:
            raise InputError(f"maps {scores.shape} and masks {marks.shape} must both be (N, H, W)")
        if scores.dtype.kind not in "fiub":
            raise InputError(f"maps must be real numbers, not {scores.dtype}")
        scores = np.ascontiguousarray(scores, dtype=np.float32)
        found = _count_by_score(scores, marks, EDGES)
        if found.low < 0 or found.high > 1:
            raise InputError("maps must lie in [0, 1]: normalise each by its minimum and maximum")
        self.counts += found.counts
        self.ignored += found.ignored
        self.images += len(scores)
        if self.definition == "exact":
            # Flattening copies: the caller may use its arrays again.
            self._scores.append(scores.flatten() if copy else scores.reshape(-1))
            flat = np.ascontiguousarray(marks, dtype=np.uint8)
            self._marks.append(flat.flatten() if copy else flat.reshape(-1))

    @ignore_float_errors
    def result(self) -> PixelPrecision:
        """The pooled PxAP so far.

        Raises:
            InputError: No pixel lies in an object.
        """
        negatives, positives = self.counts
        if not positives.sum():
            raise InputError("no pixel is marked as the object's: there is no recall to speak of")
        hits, alarms = (np.cumsum(counts[::-1]) for counts in (positives, negatives))
        precision = hits / (hits + alarms)
        if self.definition == "reference":
            value = binned_average_precision(positives, negatives)
        else:
            if len(self._scores) > 1:  # joined once, whatever is added later
                self._scores, self._marks = [np.concatenate(self._scores)], [np.concatenate(self._marks)]
            scores, marks = self._scores[0], self._marks[0]
            value = ranking_counts.average_precision(scores, marks)
        return PixelPrecision(
            100 * value,
            self.definition,
            precision,
            hits / hits[-1],
            int(positives.sum()),
            int(negatives.sum()),
            self.ignored,
            self.images,
        )


@ignore_float_errors
def pxap(maps: ArrayLike, masks: ArrayLike, *, definition: Definition = "exact") -> PixelPrecision:
    """PxAP of maps against masks, pooled over all pixels.

    Args:
        maps: Real (N, H, W) in [0, 1].
        masks: (N, H, W): 1 (or True) in the object, 0 outside, 255 where it does not count.
        definition: "exact" takes every different score as a threshold; "reference" the benchmark's bins.

    Returns:
        The precision; `.value` is its number.

    Raises:
        InputError: See `PixelCounts`.
    """
    counts = PixelCounts(definition)
    counts.take(maps, masks, copy=False)
    return counts.result()


@ignore_float_errors
def average_precision(scores: ArrayLike, positives: ArrayLike) -> float:
    """Exact average precision of scores, ties taken together.

    Args:
        scores: Real (n,), finite.
        positives: (n,) 1 or True for positives, 0 for negatives, 255 for what does not count.

    Returns:
        Σ_n P_n (R_n − R_{n−1}) over the different scores from the highest down, in [0, 1].

    Raises:
        InputError: Shapes or values that do not fit, or no positives.
    """
    values = np.asarray(scores)
    if values.dtype not in (np.dtype("f4"), np.dtype("f8")):
        values = values.astype(np.float64)
    try:
        return ranking_counts.average_precision(values, positives)
    except ValueError as error:
        raise InputError(str(error)) from None


@ignore_float_errors
def histogram(
    scores: ArrayLike, positives: ArrayLike, edges: Sequence[float] | NDArray[np.float64] = EDGES
) -> Counts:
    """Counts (2, bins) of negatives and of positives by score, from low to high.

    Args:
        scores: Real, any shape, finite.
        positives: Marks of the same shape, see `average_precision`.
        edges: Rising; the last bin holds its upper edge, and scores outside all bins are in none.

    Raises:
        InputError: Shapes or values that do not fit.
    """
    return _count_by_score(scores, positives, edges).counts


def _count_by_score(
    scores: ArrayLike, marks: ArrayLike, edges: Sequence[float] | NDArray[np.float64]
) -> ranking_counts.Histogram:
    values = np.asarray(scores)
    if values.dtype not in (np.dtype("f4"), np.dtype("f8")):
        values = values.astype(np.float64)
    try:
        return ranking_counts.histogram(values, marks, edges)
    except ValueError as error:
        raise InputError(str(error)) from None


@ignore_float_errors
def binned_average_precision(positives: Counts, negatives: Counts) -> float:
    """Average precision of counts by rising score, in [0, 1]: the benchmark's reading.

    Raises:
        InputError: No positives.
    """
    total = positives.sum()
    if not total:
        raise InputError("there are no positives: no recall to speak of")
    hits, alarms = np.cumsum(positives[::-1]), np.cumsum(negatives[::-1])
    gained = np.diff(hits, prepend=0)
    some = hits + alarms > 0
    return float(np.sum(gained[some] * (hits[some] / (hits + alarms)[some])) / total)
