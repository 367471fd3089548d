"""MaxBoxAcc and MaxBoxAccV2: do boxes around what a map marks fit the boxes that people drew?

"Evaluating Weakly Supervised Object Localization Methods Right" (CVPR 2020, arXiv:2001.07437) and its
extension (arXiv:2007.04178), with every constant of the benchmark's own code (specification C3): maps of 8
bits, a thousand thresholds relative to the map's maximum, the contours of what lies above, one threshold for
the whole data set.

Boxes are the benchmark's: (x0, y0, x1, y1), whole pixels, the last ones belonging to the box. Those around
contours are one pixel larger than tight on the right and below, so a map that is its own box overlaps it by
less than 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camrt.errors import InputError
from camrt.kernels.float_errors import ignore_float_errors
from camrt.kernels.threshold_boxes import LEVELS, best_overlaps, largest_boxes

__all__ = ["DELTAS", "THRESHOLDS", "BoxAccuracy", "box_accuracy", "max_box_accuracy", "overlaps", "to_8bit"]

Contours = Literal["all", "largest"]

DELTAS = (0.3, 0.5, 0.7)
"""The overlaps from which on a box counts as found."""
THRESHOLDS: NDArray[np.float64] = np.arange(0, 1, 0.001)
"""The thresholds τ, relative to a map's maximum."""


@dataclass(frozen=True, eq=False)
class BoxAccuracy:
    """How often the boxes were found.

    Attributes:
        deltas: (D,) the overlaps asked for.
        thresholds: (T,) the thresholds tried.
        rates: (D, T), the share of maps with an overlap of at least δ at τ.
        chosen: (D,) indices of the thresholds that count, one a δ.
        images: How many maps.
    """

    deltas: tuple[float, ...]
    thresholds: NDArray[np.float64]
    rates: NDArray[np.float64]
    chosen: NDArray[np.int64]
    images: int

    @property
    def by_delta(self) -> NDArray[np.float64]:
        """(D,): the share found at the chosen threshold, for each δ."""
        return self.rates[np.arange(len(self.deltas)), self.chosen]

    @property
    def value(self) -> float:
        """The mean over δ, in [0, 1]: MaxBoxAccV2, or MaxBoxAcc for δ = 0.5 alone."""
        return float(self.by_delta.mean())


@ignore_float_errors
def max_box_accuracy(
    maps: ArrayLike,
    boxes: Sequence[ArrayLike],
    deltas: Sequence[float] = DELTAS,
    *,
    contours: Contours = "all",
    validation: BoxAccuracy | None = None,
    threads: int | None = None,
) -> BoxAccuracy:
    """MaxBoxAccV2, from one pass over each map's pixels for all thresholds.

    MaxBoxAcc, the first version, is `deltas=(0.5,), contours="largest"`.

    Args:
        maps: Real (N, H, W) in [0, 1], one an image, min-max normalised as a rule: they are cut to 8 bits.
        boxes: N arrays (n, 4) of whole numbers (x0, y0, x1, y1), at least one each.
        deltas: δ, the overlaps asked for.
        contours: "all", holes and what lies in them included; or "largest", the one that encloses most.
        validation: The accuracy on a validation split, whose thresholds are then taken; None takes the best
            ones.
        threads: Threads of the kernel.

    Returns:
        The accuracy; `.value` is its number.

    Raises:
        InputError: Shapes that do not fit, no maps, a map without a box, or values outside [0, 1].
    """
    return box_accuracy(
        overlaps(maps, boxes, contours=contours, threads=threads), deltas, validation=validation
    )


@ignore_float_errors
def box_accuracy(
    best: NDArray[np.float64], deltas: Sequence[float] = DELTAS, *, validation: BoxAccuracy | None = None
) -> BoxAccuracy:
    """The accuracy of the best overlaps (N, T) that `overlaps` found, whose maps need not be kept.

    Raises:
        InputError: No maps, a δ outside (0, 1], or thresholds chosen for other δ.
    """
    wanted = tuple(float(delta) for delta in deltas)
    if not len(best):
        raise InputError("there are no maps to measure")
    if not wanted or not all(0 < delta <= 1 for delta in wanted):
        raise InputError(f"deltas={wanted} must lie above 0, and at most at 1")
    if validation is not None and validation.deltas != wanted:
        raise InputError(f"the thresholds were chosen for deltas {validation.deltas}, not for {wanted}")
    rates = np.stack([(best >= delta).mean(axis=0) for delta in wanted])
    return accuracy_of_rates(rates, wanted, len(best), validation=validation)


def accuracy_of_rates(
    rates: NDArray[np.float64],
    deltas: tuple[float, ...],
    images: int,
    *,
    validation: BoxAccuracy | None = None,
) -> BoxAccuracy:
    """The accuracy at the best threshold for each δ, or at those chosen elsewhere, of rates (D, T)."""
    chosen = rates.argmax(axis=1).astype(np.int64) if validation is None else validation.chosen
    return BoxAccuracy(deltas, THRESHOLDS, rates, chosen, images)


@ignore_float_errors
def overlaps(
    maps: ArrayLike,
    boxes: Sequence[ArrayLike],
    *,
    contours: Contours = "all",
    threads: int | None = None,
) -> NDArray[np.float64]:
    """(N, T): at each threshold, the largest overlap between a map's boxes and those that were drawn.

    Raises:
        InputError: See `max_box_accuracy`.
    """
    if contours not in ("all", "largest"):
        raise InputError(f"contours={contours!r} must be 'all' or 'largest'")
    levels = to_8bit(maps)
    if len(boxes) != len(levels):
        raise InputError(f"{len(levels)} maps need {len(levels)} arrays of boxes, not {len(boxes)}")
    rows, owner = [], []
    for index, own in enumerate(boxes):
        given = np.asarray(own)
        if given.ndim != 2 or given.shape[1] != 4 or not len(given) or given.dtype.kind not in "iu":
            raise InputError(
                f"boxes[{index}] must be whole numbers (n, 4), n >= 1, not {given.dtype} {given.shape}"
            )
        if (given[:, :2] > given[:, 2:]).any():
            raise InputError(f"boxes[{index}] holds a box that ends before it begins: {given.tolist()}")
        rows.append(given.astype(np.int64))
        owner += [index] * len(given)
    every = np.concatenate(rows) if rows else np.zeros((0, 4), np.int64)
    if contours == "all":
        by_level = best_overlaps(levels, every, np.array(owner, np.int64), threads=threads)
    else:
        found = largest_boxes(levels, threads=threads)
        by_level = np.zeros((len(levels), LEVELS))
        for index, own in enumerate(rows):
            by_level[index] = intersection_over_union(found[index], own).max(axis=1)
    highest = levels.max(axis=(1, 2))
    at = (THRESHOLDS * highest[:, None].astype(np.float64)).astype(np.int64)
    best: NDArray[np.float64] = np.take_along_axis(by_level, at, axis=1)
    return best


@ignore_float_errors
def to_8bit(maps: ArrayLike) -> NDArray[np.uint8]:
    """Maps in [0, 1] as the benchmark's 8-bit images: 255 s, cut off.

    Raises:
        InputError: Another shape, or values outside [0, 1].
    """
    checked = np.asarray(maps)
    if checked.ndim != 3 or 0 in checked.shape[1:]:
        raise InputError(f"maps must be (N, H, W), not {checked.shape}")
    if checked.dtype.kind not in "fiub":
        raise InputError(f"maps must be real numbers, not {checked.dtype}")
    if checked.size and not (checked.min() >= 0 and checked.max() <= 1):
        raise InputError("maps must lie in [0, 1] and be finite: normalise each by its minimum and maximum")
    return (checked * (255 if checked.dtype.kind == "f" else np.uint8(255))).astype(np.uint8)


def intersection_over_union(found: NDArray[Any], drawn: NDArray[Any]) -> NDArray[np.float64]:
    """(A, B) for boxes (A, 4) and (B, 4), whose last pixels belong to them."""
    one, other = found[:, None], drawn[None]
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2]) + 1
    common = np.maximum(sides, 0).prod(axis=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2] + 1).prod(axis=-1) for boxes in (one, other)]
    union: NDArray[np.float64] = common / (areas[0] + areas[1] - common)
    return union
