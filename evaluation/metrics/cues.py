"""Cue localisation: do maps of two kinds of bird differ where the birds differ?

"Keep CALM and Improve Visual Feature Attribution" (ICCV 2021), section 5.2 and table 1 (specification C1).
Two classes of CUB-200-2011 whose attributes differ in one, two or three parts of the body make a pair. The
difference of an image's two maps should lie on those parts: on the pixels of the bird that are nearest to a
keypoint of one of them. Pixels of all test images of both classes are pooled, and ranked; a pair's value is
the average precision, a group's the mean over its pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from camrt.errors import DataError, InputError
from camrt.evaluation.datasets.cub import CubDataset
from camrt.evaluation.metrics.pixel_precision import (
    EDGES,
    average_precision,
    binned_average_precision,
    histogram,
)
from camrt.kernels.float_errors import ignore_float_errors
from camrt.kernels.resampling import bilinear

__all__ = [
    "CUB_PAIR_COUNTS",
    "LOG_EDGES",
    "PARTS",
    "CueLocalisation",
    "CuePair",
    "PairPrecision",
    "attribute_parts",
    "cue_localisation",
    "cue_mask",
    "cue_pairs",
    "difference_map",
    "nearest_point",
    "part_points",
]

Array = npt.NDArray[Any]
Explain = Callable[[Sequence[Path], int], Array]
"""From image files and a class to its maps (n, h, w), on their own grid."""
Order = Literal["after", "before"]
Kind = Literal["calm", "minmax"]
Thresholds = Literal["exact", "even", "log"]
Accumulate = Literal["reset", "reference"]

PARTS = ("head", "back", "belly", "breast", "tail", "leg", "wing")
"""The parts of the body."""
CUB_PAIR_COUNTS = {1: 31, 2: 64, 3: 96}
"""How many pairs of CUB's 200 classes differ in so many parts."""
CUB_ATTRIBUTES_SHAPE = (200, 312)
"""CUB's classes and attributes."""

PART_WORDS: dict[str, tuple[str, ...]] = {
    "head": ("bill", "crown", "eye", "forehead", "head", "nape", "throat"),
    **{part: (part,) for part in PARTS[1:]},
}
"""An attribute whose name contains one of the words is about the part."""
PART_KEYPOINTS: dict[str, tuple[str, ...]] = {
    "head": ("beak", "crown", "forehead", "left eye", "nape", "right eye", "throat"),
    **{part: (part,) for part in PARTS[1:5]},
    "leg": ("left leg", "right leg"),
    "wing": ("left wing", "right wing"),
}
"""CUB's keypoints of each part."""

LOG_EDGES: npt.NDArray[np.float64] = np.array([*10.0 ** -(0.007 * np.arange(999, -1, -1)), 2.0, 3.0])
"""The bins of the paper's code for CALM: 10^-6.993, ..., 10^-0.007, 1, 2, 3. What lies below is in none."""


@dataclass(frozen=True)
class CuePair:
    """Two classes, from 0, and the parts in which their attributes differ, in the order of `PARTS`."""

    first: int
    second: int
    parts: tuple[str, ...]


@dataclass(frozen=True)
class PairPrecision:
    """What was found of one pair.

    Attributes:
        pair: The pair.
        value: Average precision in [0, 1]; NaN where no pixel belongs to a differing part.
        images: How many images were pooled.
        hidden: How many were skipped because they show none of the differing parts.
        outside: How many of those pooled have no pixel of the bird nearest to a differing part.
    """

    pair: CuePair
    value: float
    images: int
    hidden: int
    outside: int


@dataclass(frozen=True)
class CueLocalisation:
    """What was found of all pairs.

    Attributes:
        pairs: Each pair, in the order given.
    """

    pairs: tuple[PairPrecision, ...]

    @property
    def groups(self) -> dict[int, float]:
        """MPxAP, in [0, 1], of the pairs that differ in 1, 2, ... parts; NaN where none has a value."""
        counts = sorted({len(found.pair.parts) for found in self.pairs})
        return {
            count: nan_mean(found.value for found in self.pairs if len(found.pair.parts) == count)
            for count in counts
        }

    @property
    def mean(self) -> float:
        """Mean of the groups weighted by their pairs, as the paper's table has it."""
        return nan_mean(found.value for found in self.pairs)

    @property
    def undefined(self) -> int:
        """How many pairs have no value; the means leave them out."""
        return sum(bool(np.isnan(found.value)) for found in self.pairs)

    @property
    def hidden(self) -> int:
        """How many times an image was skipped because it shows none of the differing parts."""
        return sum(found.hidden for found in self.pairs)


@ignore_float_errors
def attribute_parts(name: str) -> tuple[str, ...]:
    """The parts that an attribute is about, by the words its name contains.

    Of "has_shape::long-legged-like" that is the leg; colours of the whole bird, size and the like have none.
    """
    return tuple(part for part in PARTS if any(word in name for word in PART_WORDS[part]))


@ignore_float_errors
def cue_pairs(
    class_attributes: Array, names: Sequence[str], *, counts: Sequence[int] = (1, 2, 3)
) -> tuple[CuePair, ...]:
    """The pairs of classes whose attributes differ in few parts of the body.

    A class has an attribute when at least half of the answers gave it, as the paper's code has it.

    Args:
        class_attributes: (C, A), percentages from 0 to 100.
        names: The A attributes.
        counts: In how many parts a pair may differ.

    Returns:
        The pairs, those that differ in the first of `counts` parts first, then by class.

    Raises:
        InputError: Shapes that do not fit, or numbers that are no percentages.
        DataError: CUB's own 200 × 312 percentages give other numbers of pairs than 31, 64 and 96.
    """
    shares = np.asarray(class_attributes)
    if shares.ndim != 2 or shares.shape[1] != len(names):
        raise InputError(f"class_attributes {shares.shape} must be (C, {len(names)}), one column a name")
    if shares.dtype.kind not in "fiu" or not ((shares >= 0) & (shares <= 100)).all():
        raise InputError("class_attributes must be percentages from 0 to 100")
    if shares.size and 0 < shares.max() <= 1:
        raise InputError("class_attributes must be percentages from 0 to 100, not shares from 0 to 1")
    about = np.array([[part in attribute_parts(name) for part in PARTS] for name in names], np.int64)
    present = shares >= 50
    grouped: dict[int, list[CuePair]] = {count: [] for count in counts}
    for first in range(len(present)):
        differing = ((present[first] != present[first + 1 :]).astype(np.int64) @ about) > 0
        for offset, row in enumerate(differing, start=1):
            count = int(row.sum())
            if count in grouped:
                parts = tuple(part for part, differs in zip(PARTS, row, strict=True) if differs)
                grouped[count].append(CuePair(first, first + offset, parts))
    if shares.shape == CUB_ATTRIBUTES_SHAPE:
        wrong = {
            count: len(found)
            for count, found in grouped.items()
            if len(found) != CUB_PAIR_COUNTS.get(count, len(found))
        }
        if wrong:
            raise DataError(
                f"{wrong} pairs differ in so many parts where CUB has {CUB_PAIR_COUNTS}: the attributes "
                "or their names "
                "are not CUB-200-2011's, or are in another order"
            )
    return tuple(pair for count in counts for pair in grouped[count])


@ignore_float_errors
def part_points(
    keypoints: Array, part_names: Sequence[str], size: tuple[int, int], side: int = 224
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """The visible keypoints of the parts, in an image resized to a square.

    The head's is the mean of those of its seven; both legs and both wings keep theirs.

    Args:
        keypoints: (P, 2), x and y in the image's own pixels, NaN where hidden.
        part_names: CUB's names of the P keypoints.
        size: Height and width of the image.
        side: Height and width of the square.

    Returns:
        (n, 2) whole x and y, rounded towards zero, in the order of `PARTS`; and the part of each.

    Raises:
        InputError: Shapes that do not fit, or keypoints without one of the names.
    """
    places = np.asarray(keypoints, np.float64)
    if places.shape != (len(part_names), 2):
        raise InputError(f"keypoints {places.shape} must be ({len(part_names)}, 2), one row a name")
    missing = sorted({name for names in PART_KEYPOINTS.values() for name in names} - set(part_names))
    if missing:
        raise InputError(f"no keypoint is called {', '.join(missing)}")
    scaled = places / np.array([size[1], size[0]]) * side
    points: list[Array] = []
    labels: list[str] = []
    for part, names in PART_KEYPOINTS.items():
        own = scaled[[place for place, name in enumerate(part_names) if name in names]]
        own = own[~np.isnan(own).any(axis=1)]
        if part == "head" and len(own):
            own = own.mean(axis=0, keepdims=True)
        points.append(own)
        labels += [part] * len(own)
    return np.concatenate(points).astype(np.int64), tuple(labels)


@ignore_float_errors
def nearest_point(points: npt.NDArray[np.int64], side: int = 224) -> npt.NDArray[np.int64]:
    """Index of the point (x, y) nearest to each pixel (side, side); of several the first.

    Raises:
        InputError: No points.
    """
    if points.ndim != 2 or points.shape[1:] != (2,) or not len(points):
        raise InputError(f"points {points.shape} must be (n, 2), x and y, with n >= 1")
    places = np.arange(side)
    across = (places[None, :] - points[:, :1]) ** 2
    down = (places[None, :] - points[:, 1:]) ** 2
    return np.asarray(np.argmin(down[:, :, None] + across[:, None, :], axis=0), np.int64)


@ignore_float_errors
def cue_mask(
    points: npt.NDArray[np.int64],
    labels: Sequence[str],
    parts: Sequence[str],
    bird: npt.NDArray[np.bool_],
) -> npt.NDArray[np.bool_] | None:
    """The pixels of the bird nearest to a keypoint of a differing part; None when it shows none of them.

    That they must be the bird's is the paper's code; the paper does not say it.

    Args:
        points: (n, 2), x and y, as `part_points` gives them.
        labels: Their parts.
        parts: The differing parts.
        bird: bool (side, side).

    Returns:
        bool (side, side), or None.

    Raises:
        InputError: Shapes that do not fit.
    """
    if len(labels) != len(points) or bird.ndim != 2 or bird.shape[0] != bird.shape[1]:
        raise InputError(f"{len(points)} points, {len(labels)} labels and a square are needed: {bird.shape}")
    wanted = np.array([label in parts for label in labels], np.bool_)
    if not wanted.any():
        return None
    return np.asarray(wanted[nearest_point(points, len(bird))] & bird)


@ignore_float_errors
def difference_map(
    maps_a: Array,
    maps_b: Array,
    *,
    size: tuple[int, int] = (224, 224),
    order: Order = "after",
    kind: Kind = "calm",
) -> npt.NDArray[np.float64]:
    """Where two maps of an image differ, |s_A − s_B| at the size of the image, in [0, 1].

    Args:
        maps_a: s_A, (N, h, w), on the maps' own grid.
        maps_b: s_B, of the same shape.
        size: H and W of the result; upsampling is bilinear.
        order: "after" normalises the upsampled absolute difference, as the paper's code does; "before"
            normalises both maps and subtracts then, as the paper can be read.
        kind: "calm" clips to [0, 1]: probabilities need no more. "minmax" stretches each map to [0, 1], a
            constant one becomes zeros.

    Returns:
        float64 (N, H, W).

    Raises:
        InputError: Shapes that do not fit, values that are not finite, or an unknown option.
    """
    if order not in get_args(Order) or kind not in get_args(Kind):
        raise InputError(f"order={order!r} must be 'after' or 'before', kind={kind!r} 'calm' or 'minmax'")
    one, other = np.asarray(maps_a), np.asarray(maps_b)
    if one.ndim != 3 or one.shape != other.shape or 0 in one.shape[1:]:
        raise InputError(f"the maps {one.shape} and {other.shape} must both be (N, h, w)")
    one, other = one.astype(np.float64), other.astype(np.float64)
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise InputError("maps must be finite; a map holds NaN or infinity")
    if order == "before":
        one, other = normalise_maps(one, kind), normalise_maps(other, kind)
    difference = np.abs(bilinear(one - other, size))
    return np.clip(difference, 0, 1) if order == "before" else normalise_maps(difference, kind)


def normalise_maps(maps: npt.NDArray[np.float64], kind: Kind) -> npt.NDArray[np.float64]:
    """Maps (N, H, W) brought to [0, 1], each by itself."""
    if kind == "calm":
        return np.asarray(np.clip(maps, 0, 1))
    low = maps.min(axis=(1, 2), keepdims=True)
    span = maps.max(axis=(1, 2), keepdims=True) - low
    return np.asarray(np.divide(maps - low, span, out=np.zeros_like(maps), where=span > 0))


@ignore_float_errors
def cue_localisation(
    explain: Explain,
    cub: CubDataset,
    pairs: Sequence[CuePair],
    *,
    kind: Kind = "calm",
    order: Order = "after",
    thresholds: Thresholds = "exact",
    accumulate: Accumulate = "reset",
    side: int = 224,
    batch_size: int = 64,
) -> CueLocalisation:
    """Average precision of difference maps on the test images of pairs of classes.

    Args:
        explain: Gives maps (n, h, w), on their own grid and not normalised, of n image files for a class
            from 0: `engine.explain(files, "calm", targets=label, size="map").raw`, say.
        cub: The data set.
        pairs: As `cue_pairs` gives them.
        kind: See `difference_map`; "calm" for probabilities, "minmax" for all other maps.
        order: See `difference_map`.
        thresholds: "exact" ranks every pixel. "even" takes bins of 0.001, as the paper's code does, and "log"
            those it has for CALM, `LOG_EDGES`; below the first of them, 1.016e-7, pixels vanish from the
            positives and from the negatives, which raises the value.
        accumulate: "reset" pools the pixels of a pair. "reference" pools those of all pairs so far, as the
            paper's code does, which never empties its bins; it needs "even" or "log".
        side: Height and width at which pixels are compared.
        batch_size: Images given to `explain` at once.

    Returns:
        The value of each pair; means, and how many images were skipped.

    Raises:
        InputError: An unknown option, a class that the data set does not have, or maps of the wrong shape.
        DataError: What `CubDataset` raises.
    """
    if thresholds not in get_args(Thresholds) or accumulate not in get_args(Accumulate):
        raise InputError(
            f"thresholds={thresholds!r} must be 'exact', 'even' or 'log', accumulate={accumulate!r} 'reset' "
            "or 'reference'"
        )
    if accumulate == "reference" and thresholds == "exact":
        raise InputError("accumulate='reference' pools bins: it needs thresholds='even' or 'log'")
    if batch_size < 1 or side < 1:
        raise InputError(f"batch_size={batch_size} and side={side} must be at least 1")
    edges = {"exact": None, "even": EDGES, "log": LOG_EDGES}[thresholds]
    pool, found = PixelPool(edges), []
    for pair in pairs:
        if not all(0 <= label < len(cub.labels) for label in (pair.first, pair.second)):
            raise InputError(f"classes {pair.first} and {pair.second} must be below {len(cub.labels)}")
        if accumulate == "reset":
            pool = PixelPool(edges)
        images, masks, hidden = load_visible_cues(cub, pair, side)
        for start in range(0, len(images), batch_size):
            files = [cub.image(index) for index in images[start : start + batch_size]]
            maps = [explain_checked(explain, files, label) for label in (pair.first, pair.second)]
            scores = difference_map(*maps, size=(side, side), order=order, kind=kind)
            pool.add(scores.ravel(), np.stack(masks[start : start + batch_size]).ravel())
        outside = sum(not mask.any() for mask in masks)
        found.append(PairPrecision(pair, pool.precision(), len(images), hidden, outside))
    return CueLocalisation(tuple(found))


class PixelPool:
    """Pixels of many images: every one of them, or how many are in each bin.

    Args:
        edges: Borders of the bins; None keeps every pixel.
    """

    def __init__(self, edges: npt.NDArray[np.float64] | None) -> None:
        self.edges = edges
        self.counts = np.zeros((2, 0 if edges is None else len(edges) - 1), np.int64)
        self.pixels: list[tuple[Array, Array]] = []

    def add(self, scores: Array, positives: Array) -> None:
        """Adds pixels: scores (n,), and whether each is in the mask."""
        if self.edges is None:
            self.pixels.append((scores, positives))
        else:
            self.counts += histogram(scores, positives, self.edges)

    def precision(self) -> float:
        """Average precision of what was added; NaN without a positive pixel."""
        if self.edges is not None:
            negatives, positives = self.counts
            return binned_average_precision(positives, negatives) if positives.any() else float("nan")
        if not any(positives.any() for _, positives in self.pixels):
            return float("nan")
        scores, marks = (np.concatenate(parts) for parts in zip(*self.pixels, strict=True))
        return average_precision(scores, marks)


def load_visible_cues(
    cub: CubDataset, pair: CuePair, side: int
) -> tuple[list[int], list[npt.NDArray[np.bool_]], int]:
    """Test images of a pair that show a differing part, their masks, and how many show none."""
    images, masks, hidden = [], [], 0
    for index in [*cub.test_images(pair.first).tolist(), *cub.test_images(pair.second).tolist()]:
        points, labels = part_points(cub.keypoints[index], cub.part_names, cub.size(index), side)
        if not set(labels) & set(pair.parts):
            hidden += 1
            continue
        mask = cue_mask(points, labels, pair.parts, cub.segmentation(index, side))
        assert mask is not None
        images.append(index)
        masks.append(mask)
    return images, masks, hidden


def explain_checked(explain: Explain, files: Sequence[Path], label: int) -> Array:
    """Maps of some images for one class, checked."""
    maps = np.asarray(explain(files, label))
    if maps.ndim != 3 or len(maps) != len(files):
        raise InputError(f"explain gave {maps.shape} for {len(files)} images; it must be (n, h, w)")
    return maps


def nan_mean(values: Any) -> float:
    """Mean of the values that are not NaN; NaN without any."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
