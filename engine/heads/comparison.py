"""Whether a head answers what its own graph answers, when that is run on altered activations.

Compared are the logits, boxes deleted and kept, channels removed, the empty activation and gradients. Errors
are shares of the largest change that an alteration makes, so that large logits do not hide them. Gradients
are compared with differences of the graph's answers, which share nothing with the rules that gradients are
made by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from camrt.engine.arrays import host, library, like, room_for, zeros
from camrt.engine.heads.base import Asked, Boxes, Head, sample_boxes
from camrt.engine.heads.generic import GenericHead
from camrt.engine.passes import PassCounter
from camrt.engine.scores import ScoreKind, ScoreReader
from camrt.errors import AdjointError, BackendError
from camrt.export.endings import InverseLink

__all__ = [
    "Comparison",
    "Precision",
    "Reference",
    "along_picture_gradients",
    "asked_of",
    "compare",
    "compare_head",
    "relative_error",
]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
Pairs = Iterator[tuple[Array, Array, Array | float]]  # an answer, what it should be, and of nothing altered

# Classes whose scores are compared, spread over all of them, and whose gradients are.
CLASSES, GRADIENTS = 8, 2
# Channels that are left of an activation whose channels are removed one by one.
CHANNELS = 2
# Largest error of a gradient along itself: bends and rounding cost a few hundredths.
SLOPE = 5e-2
# A score that changes by less than this share of itself is too flat for differences in float32.
FLAT = 1e-2
# Changes that differences are taken over, as shares of the score's whole change: a large one where rounding
# hides a small one, a small one where a large one crosses a bend.
STEPS = (1e-2, 1e-3, 1e-4)


@dataclass(frozen=True)
class Precision:
    """How closely two ways to the same answer agree.

    Attributes:
        relative: Largest error, as a share of the largest change that an alteration makes.
        absolute: What is allowed beside it, as a share of the largest score.
        slopes: Largest error of a gradient along itself; None where numbers are too coarse for differences.
    """

    relative: float
    absolute: float
    slopes: float | None

    @classmethod
    def of(cls, *, half: bool, quantised: bool) -> Precision:
        """That of a model by the numbers it computes with.

        Sums of thousands of float32 taken in another order differ by 1e-5; a misread head is off by 1e-2 and
        more. Half types have 8 or 11 bits. Where numbers are rounded to 8 bits, a last bit before the
        rounding may become a step behind it.
        """
        if quantised:
            return cls(8e-2, 2e-2, None)
        return cls(3e-2, 8e-3, None) if half else cls(1e-3, 2e-5, SLOPE)


@dataclass(frozen=True)
class Comparison:
    """One question, asked in two ways.

    Attributes:
        question: What was asked.
        error: The largest difference, as a share of the largest change; infinity where there is no answer.
        allowed: The largest that agrees.
        failure: Why there is no answer, in a sentence.
        refused: Why the question has no answer on this model, which a method that asks it says as well.
    """

    question: str
    error: float
    allowed: float
    failure: str | None = None
    refused: str | None = None

    @property
    def agrees(self) -> bool:
        """Whether both ways gave the same."""
        return self.failure is None and self.error <= self.allowed

    def __str__(self) -> str:
        if self.failure is not None or self.refused is not None:
            return f"{self.question}: {self.failure or self.refused}"
        return f"{self.question}: off by {self.error:.2g} of the largest change, {self.allowed:g} is allowed"


@dataclass(frozen=True)
class Reference:
    """A head's own graph, run as it is.

    Attributes:
        head: Answers by running altered activations through it.
        show: Logits (N, C) and further tensors of the trunk pass, of activations (N, K, h, w) and the
            tensors that go around the cut.
        own_gradient: Whether the head that is compared finds gradients in another way.
    """

    head: GenericHead
    show: Callable[[Array, Mapping[str, Array]], tuple[Array, dict[str, Array]]]
    own_gradient: bool


def asked_of(
    activations: Array,
    logits: Array,
    extras: Mapping[str, Array],
    activation: InverseLink,
    *,
    kind: ScoreKind = "logit",
    most: int = CLASSES,
) -> Asked:
    """The circumstances of questions about at most `most` classes, spread over all."""
    count, classes = logits.shape
    chosen = np.unique(np.linspace(0, classes - 1, min(classes, most)).astype(np.int64))
    targets = like(np.tile(chosen, (count, 1)), logits)
    reader = ScoreReader(targets, kind, activation)
    return Asked(activations, logits, reader, PassCounter(), dict(extras))


def relative_error(found: Array, expected: Array, precision: Precision, base: Array | float = 0.0) -> float:
    """The largest error as a share of the largest change; what is not finite in both agrees.

    To the change is added what rounding may leave of a large answer, so that an error is at most
    `Precision.relative` where it is at most that share of the change and `Precision.absolute` of the answer.

    Args:
        found: Some answers.
        expected: What they should be, of the same shape.
        precision: How closely they must agree.
        base: The answers when nothing is altered.
    """
    mine, theirs, still = (
        np.asarray(values if np.isscalar(values) else host(values), np.float64)
        for values in (found, expected, base)
    )
    seen = np.isfinite(theirs)
    if mine.shape != theirs.shape or (np.isfinite(mine) != seen).any():
        return float("inf")
    if not seen.any():
        return 0.0
    change = np.abs(theirs - np.broadcast_to(still, theirs.shape))[seen].max()
    scale = change + precision.absolute / precision.relative * np.abs(theirs)[seen].max()
    error = np.abs(mine - theirs)[seen].max()
    return float(error / scale) if error > 0 else 0.0


def compare_head(
    head: Head,
    reference: Reference,
    natural: Sequence[Asked],
    precision: Precision,
    *,
    thorough: bool = False,
) -> list[Comparison]:
    """What a head answers, compared with what its graph gives.

    Args:
        head: The head.
        reference: Its graph.
        natural: Activations that a trunk pass gave, with their logits and further tensors.
        precision: How closely they must agree.
        thorough: Whether many boxes, all channels and each gradient are compared, or some.
    """
    found: list[Comparison] = []
    for number, asked in enumerate(natural):
        found += compare("logits", shown(reference, asked), precision)
        if head is not reference.head:
            height, width = asked.activations.shape[2:]
            boxes = sample_boxes(height, width, most=32)
            some = boxes if thorough else boxes[number % len(boxes)][None]
            found += compare("boxes", with_boxes(head, reference, asked, some), precision)
    last = natural[-1]
    if precision.slopes is not None and (thorough or reference.own_gradient):
        found += compare("gradient", along_gradients(head, reference, last), precision, precision.slopes)
    if thorough and reference.own_gradient:
        found += compare("gradient by the graph", both_gradients(head, reference, last), precision)
    if head is not reference.head:
        found += compare("empty activation", emptied(head, reference, last), precision)
        removed = without_channels(head, reference, last, None if thorough else CHANNELS)
        found += compare("removed channels", removed, precision)
    return found


def compare(
    question: str, pairs: Pairs, precision: Precision, allowed: float | None = None
) -> list[Comparison]:
    """The comparison of some answers.

    Args:
        question: What is asked.
        pairs: Answers, what they should be, and what they are when nothing is altered.
        precision: How closely they must agree.
        allowed: The largest error; None for that of the precision.
    """
    most = precision.relative if allowed is None else allowed
    try:
        errors = [relative_error(mine, theirs, precision, base) for mine, theirs, base in pairs]
    except AdjointError as error:  # refused by name when a method asks for it: nothing wrong is answered
        return [Comparison(question, 0.0, most, refused=str(error))]
    except BackendError as error:
        return [Comparison(question, float("inf"), most, str(error))]
    return [Comparison(question, max(errors), most)] if errors else []


def shown(reference: Reference, asked: Asked) -> Pairs:
    """The logits that the head's graph gives for the activation, and the model's."""
    logits, _ = reference.show(asked.activations, asked.extras)
    base = (
        library(asked.logits).mean(asked.logits, axis=1, keepdims=True) if asked.logits.shape[1] > 1 else 0.0
    )
    yield logits, asked.logits, base


def with_boxes(head: Head, reference: Reference, asked: Asked, boxes: Boxes) -> Pairs:
    """Scores with boxes deleted, and with them kept."""
    mine = head.with_boxes(asked, boxes, delete=True, keep=True)
    theirs = reference.head.with_boxes(asked, boxes, delete=True, keep=True)
    for some, other in zip(mine, theirs, strict=True):
        if some is not None and other is not None:
            yield some, other, asked.scores[:, None]


def emptied(head: Head, reference: Reference, asked: Asked) -> Pairs:
    """Scores of an all-zero activation."""
    yield head.empty(asked), reference.head.empty(asked), asked.scores


def without_channels(head: Head, reference: Reference, asked: Asked, most: int | None) -> Pairs:
    """Scores without each channel; where `most` is said, of one activation with so many channels left."""
    if most is not None:
        asked = first_of(asked)
    if most is not None and asked.activations.shape[1] > most:
        strength = host(library(asked.activations).abs(asked.activations)).mean(axis=(0, 2, 3))
        left = np.isin(np.arange(len(strength)), np.argsort(-strength)[:most])
        kept = asked.activations * like(left.astype(np.float32)[:, None, None], asked.activations)
        logits, extras = reference.show(kept, asked.extras)
        asked = replace(asked, activations=kept, logits=logits, extras={**asked.extras, **extras})
    yield head.without_channels(asked), reference.head.without_channels(asked), asked.scores[:, None]


def first_of(asked: Asked) -> Asked:
    """The same about the first picture alone."""
    return replace(
        asked,
        activations=asked.activations[:1],
        logits=asked.logits[:1],
        reader=replace(asked.reader, targets=asked.reader.targets[:1]),
        extras={name: values[:1] for name, values in asked.extras.items()},
    )


def both_gradients(head: Head, reference: Reference, asked: Asked) -> Pairs:
    """Gradients by the head, and by the adjoint of its graph."""
    first = replace(asked, reader=replace(asked.reader, targets=asked.reader.targets[:, :GRADIENTS]))
    for mine, theirs in zip(head.gradients(first), reference.head.gradients(first), strict=True):
        yield mine, theirs, 0.0


def along_gradients(head: Head, reference: Reference, asked: Asked) -> Pairs:
    """How much scores change along their gradient, by the head's graph, as a share of what it says."""
    first = replace(asked, reader=replace(asked.reader, targets=asked.reader.targets[:, :GRADIENTS]))
    full = host(first.scores)
    change = np.abs(full - host(reference.head.empty(first)))
    change = np.where(change > FLAT * np.abs(full), change, 0.0)
    xp = library(asked.activations)
    repeated = {name: xp.concat([values] * 4) for name, values in asked.extras.items()}

    def scores(rows: Array, owners: Array, target: int) -> npt.NDArray[np.float64]:
        logits, _ = reference.show(rows, repeated)
        return host(first.reader.read(logits, owners))[:, target].astype(np.float64)

    for target, gradient in enumerate(head.gradients(first)):
        measured = slopes(asked.activations, gradient, change[:, target], partial(scores, target=target))
        yield 1.0 + measured, np.ones(len(measured)), 0.0


def along_picture_gradients(
    pictures: Array,
    gradients: Callable[[Array, Array], tuple[Array, Array]],
    logits: Callable[[Array], Array],
    classes: Sequence[int],
) -> Pairs:
    """How much logits change along their gradient with respect to the picture.

    Args:
        pictures: (N, C, H, W).
        gradients: Logits and gradient of pictures and a weighting of the logits (N, classes).
        logits: Logits of pictures.
        classes: Whose logits.
    """
    xp, whole = library(pictures), logits(pictures)
    change = np.abs(host(whole) - host(logits(xp.zeros_like(pictures))))
    for one in classes:
        weighting = np.zeros(whole.shape, np.float32)
        weighting[:, one] = 1.0
        _, gradient = gradients(pictures, like(weighting, whole))

        def scores(rows: Array, owners: Array, one: int = one) -> npt.NDArray[np.float64]:
            return host(logits(rows))[:, one].astype(np.float64)

        measured = slopes(pictures, gradient, change[:, one], scores)
        yield 1.0 + measured, np.ones(len(measured)), 0.0


def slopes(
    start: Array,
    gradient: Array,
    change: npt.NDArray[Any],
    scores: Callable[[Array, Array], npt.NDArray[np.float64]],
) -> npt.NDArray[np.float64]:
    """Differences of a score along its gradient, less what the gradient says: zeros where it is right.

    The gradient is followed on every second number and on the others, both ways, by steps that change the
    activation, and the score, by a known share at most. Differences are shares of what such a step changes
    as a rule, so that a score that hardly moves, behind a saturated function, is not measured by its
    rounding. Where there is no gradient there is nothing to follow.

    Args:
        start: (N, K, h, w) where the gradient is taken.
        gradient: (N, K, h, w).
        change: (N,) what counts as a change of the score.
        scores: Scores (4·N,) of altered rows, given the rows and which of N each comes from.

    Returns:
        (2·N,): by halves of the numbers.
    """
    xp = library(start)
    count, channels, height, width = start.shape
    room_for((12, *start.shape), start, "what gradients are checked by", itemsize=4)
    odd = [(np.arange(size) % 2).astype(np.bool_) for size in (channels, height, width)]
    even = like((odd[0][:, None, None] ^ odd[1][:, None] ^ odd[2]).astype(np.float32), start)
    parts = xp.concat([gradient * even, gradient * (1.0 - even)])
    squared, size = (
        np.asarray(host(xp.sum(values * values, axis=(1, 2, 3), dtype=xp.float64)), np.float64)
        for values in (parts, start)
    )
    wanted, size = np.tile(change, 2).astype(np.float64), np.tile(size, 2)
    steep = np.isfinite(squared) & (squared > 0) & (wanted > 0)
    measured = np.where(steep, np.inf, 0.0)
    for share in STEPS:
        if (np.abs(measured) <= SLOPE).all():
            break
        lengths = share * np.minimum(
            np.divide(wanted, squared, out=np.zeros(len(wanted)), where=steep),
            np.sqrt(np.divide(size, squared, out=np.zeros(len(wanted)), where=steep)),
        )
        rows = zeros((2, *parts.shape), start)  # there, and back
        rows[0] = parts * like(lengths.astype(np.float32)[:, None, None, None], parts)
        rows[1] = rows[0]
        rows[1] *= -1
        rows = xp.reshape(rows, (4, *start.shape))
        rows += start
        owners = like(np.tile(np.arange(count), 4), start)
        found = scores(xp.reshape(rows, (4 * count, *start.shape[1:])), owners)
        risen: Any = (found[: 2 * count] - found[2 * count :]) / 2
        error = np.divide(risen - lengths * squared, share * wanted, out=np.zeros(len(wanted)), where=steep)
        measured = np.where(np.abs(error) < np.abs(measured), error, measured)
    return measured
