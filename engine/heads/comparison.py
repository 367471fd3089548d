"""Compares a head's results with those of its ONNX graph on altered activations.

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

from camrt.engine.arrays import constant_like, library, reserve_for, to_numpy, zeros
from camrt.engine.heads.base import Boxes, Head, QueryContext, sample_boxes
from camrt.engine.heads.generic import GenericHead
from camrt.engine.passes import PassCounts
from camrt.engine.scores import ScoreKind, ScoreReader
from camrt.errors import AdjointError, BackendError
from camrt.export.outputs.output_form import InverseLink

__all__ = [
    "Comparison",
    "ReferenceHead",
    "Tolerance",
    "compare_head",
    "compare_pairs",
    "image_slope_pairs",
    "make_query_context",
    "relative_error",
]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
Pairs = Iterator[tuple[Array, Array, Array | float]]  # an answer, what it should be, and of nothing altered

# Classes whose scores are compared, spread over all of them, and whose gradients are.
MAX_CLASSES, MAX_GRADIENTS = 8, 2
# Channels that are left of an activation whose channels are removed one by one.
KEPT_CHANNELS = 2
# Largest error of a gradient along itself: bends and rounding cost a few hundredths.
SLOPE_TOLERANCE = 5e-2
# A score that changes by less than this share of itself is too flat for differences in float32.
FLAT_SCORE = 1e-2
# Changes that differences are taken over, as shares of the score's whole change: a large one where rounding
# hides a small one, a small one where a large one crosses a bend.
STEPS = (1e-2, 1e-3, 1e-4)


@dataclass(frozen=True)
class Tolerance:
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
    def of(cls, *, half: bool, quantised: bool) -> Tolerance:
        """That of a model by the numbers it computes with.

        Sums of thousands of float32 taken in another order differ by 1e-5; a misread head is off by 1e-2 and
        more. Half types have 8 or 11 bits. Where numbers are rounded to 8 bits, a last bit before the
        rounding may become a step behind it.
        """
        if quantised:
            return cls(8e-2, 2e-2, None)
        return cls(3e-2, 8e-3, None) if half else cls(1e-3, 2e-5, SLOPE_TOLERANCE)


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
class ReferenceHead:
    """A head's own graph, run as it is.

    Attributes:
        head: Answers by running altered activations through it.
        run_graph: Logits (N, C) and further tensors of the trunk pass, of activations (N, K, h, w) and the
            tensors that go around the cut.
        has_own_gradient: Whether the head that is compared finds gradients in another way.
    """

    head: GenericHead
    run_graph: Callable[[Array, Mapping[str, Array]], tuple[Array, dict[str, Array]]]
    has_own_gradient: bool


def make_query_context(
    activations: Array,
    logits: Array,
    extras: Mapping[str, Array],
    activation: InverseLink,
    *,
    kind: ScoreKind = "logit",
    most: int = MAX_CLASSES,
) -> QueryContext:
    """The circumstances of questions about at most `most` classes, spread over all."""
    count, classes = logits.shape
    chosen = np.unique(np.linspace(0, classes - 1, min(classes, most)).astype(np.int64))
    targets = constant_like(np.tile(chosen, (count, 1)), logits)
    reader = ScoreReader(targets, kind, activation)
    return QueryContext(activations, logits, reader, PassCounts(), dict(extras))


def relative_error(found: Array, expected: Array, precision: Tolerance, base: Array | float = 0.0) -> float:
    """The largest error as a share of the largest change; what is not finite in both agrees.

    To the change is added what rounding may leave of a large answer, so that an error is at most
    `Tolerance.relative` where it is at most that share of the change and `Tolerance.absolute` of the answer.

    Args:
        found: Some answers.
        expected: What they should be, of the same shape.
        precision: How closely they must agree.
        base: The answers when nothing is altered.
    """
    mine, theirs, still = (
        np.asarray(values if np.isscalar(values) else to_numpy(values), np.float64)
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
    reference: ReferenceHead,
    natural: Sequence[QueryContext],
    precision: Tolerance,
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
    for number, context in enumerate(natural):
        found += compare_pairs("logits", logit_pairs(reference, context), precision)
        if head is not reference.head:
            height, width = context.activations.shape[2:]
            boxes = sample_boxes(height, width, most=32)
            some = boxes if thorough else boxes[number % len(boxes)][None]
            found += compare_pairs("boxes", box_pairs(head, reference, context, some), precision)
    last = natural[-1]
    asked = [last]
    if head.answers_logits_apart and last.reader.kind != "logit":
        asked.append(replace(last, reader=replace(last.reader, kind="logit")))
    for context in asked:
        if precision.slopes is not None and (thorough or reference.has_own_gradient):
            slopes = slope_pairs(head, reference, context)
            found += compare_pairs("gradient", slopes, precision, precision.slopes)
        if thorough and reference.has_own_gradient:
            pairs = gradient_pairs(head, reference, context)
            found += compare_pairs("gradient by the graph", pairs, precision)
        if head is not reference.head:
            removed = channel_pairs(head, reference, context, None if thorough else KEPT_CHANNELS)
            found += compare_pairs("removed channels", removed, precision)
    if head is not reference.head:
        found += compare_pairs("empty activation", zero_activation_pairs(head, reference, last), precision)
    return found


def compare_pairs(
    question: str, pairs: Pairs, precision: Tolerance, allowed: float | None = None
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


def logit_pairs(reference: ReferenceHead, context: QueryContext) -> Pairs:
    """The logits that the head's graph gives for the activation, and the model's."""
    logits, _ = reference.run_graph(context.activations, context.extras)
    base = (
        library(context.logits).mean(context.logits, axis=1, keepdims=True)
        if context.logits.shape[1] > 1
        else 0.0
    )
    yield logits, context.logits, base


def box_pairs(head: Head, reference: ReferenceHead, context: QueryContext, boxes: Boxes) -> Pairs:
    """Scores with boxes deleted, and with them kept."""
    mine = head.scores_with_boxes(context, boxes, delete=True, keep=True)
    theirs = reference.head.scores_with_boxes(context, boxes, delete=True, keep=True)
    for some, other in zip(mine, theirs, strict=True):
        if some is not None and other is not None:
            yield some, other, context.scores[:, None]


def zero_activation_pairs(head: Head, reference: ReferenceHead, context: QueryContext) -> Pairs:
    """Scores of an all-zero activation."""
    yield (
        head.scores_of_zero_activation(context),
        reference.head.scores_of_zero_activation(context),
        context.scores,
    )


def channel_pairs(head: Head, reference: ReferenceHead, context: QueryContext, most: int | None) -> Pairs:
    """Scores without each channel; where `most` is said, of one activation with so many channels left."""
    if most is not None:
        context = take_first(context)
    if most is not None and context.activations.shape[1] > most:
        strength = to_numpy(library(context.activations).abs(context.activations)).mean(axis=(0, 2, 3))
        left = np.isin(np.arange(len(strength)), np.argsort(-strength)[:most])
        kept = context.activations * constant_like(
            left.astype(np.float32)[:, None, None], context.activations
        )
        logits, extras = reference.run_graph(kept, context.extras)
        context = replace(context, activations=kept, logits=logits, extras={**context.extras, **extras})
    yield (
        head.scores_without_channels(context),
        reference.head.scores_without_channels(context),
        context.scores[:, None],
    )


def take_first(context: QueryContext) -> QueryContext:
    """The same about the first image alone."""
    return replace(
        context,
        activations=context.activations[:1],
        logits=context.logits[:1],
        reader=replace(context.reader, targets=context.reader.targets[:1]),
        extras={name: values[:1] for name, values in context.extras.items()},
    )


def gradient_pairs(head: Head, reference: ReferenceHead, context: QueryContext) -> Pairs:
    """Gradients by the head, and by the adjoint of its graph."""
    first = replace(
        context, reader=replace(context.reader, targets=context.reader.targets[:, :MAX_GRADIENTS])
    )
    for mine, theirs in zip(head.gradients(first), reference.head.gradients(first), strict=True):
        yield mine, theirs, 0.0


def slope_pairs(head: Head, reference: ReferenceHead, context: QueryContext) -> Pairs:
    """How much scores change along their gradient, by the head's graph, as a share of what it says."""
    first = replace(
        context, reader=replace(context.reader, targets=context.reader.targets[:, :MAX_GRADIENTS])
    )
    full = to_numpy(first.scores)
    change = np.abs(full - to_numpy(reference.head.scores_of_zero_activation(first)))
    change = np.where(change > FLAT_SCORE * np.abs(full), change, 0.0)
    xp = library(context.activations)
    repeated = {name: xp.concat([values] * 4) for name, values in context.extras.items()}

    def scores(rows: Array, owners: Array, target: int) -> npt.NDArray[np.float64]:
        logits, _ = reference.run_graph(rows, repeated)
        return to_numpy(first.reader.read(logits, owners))[:, target].astype(np.float64)

    for target, gradient in enumerate(head.gradients(first)):
        measured = slope_errors(
            context.activations, gradient, change[:, target], partial(scores, target=target)
        )
        yield 1.0 + measured, np.ones(len(measured)), 0.0


def image_slope_pairs(
    images: Array,
    gradients: Callable[[Array, Array], tuple[Array, Array]],
    logits: Callable[[Array], Array],
    classes: Sequence[int],
) -> Pairs:
    """How much logits change along their gradient with respect to the image.

    Args:
        images: (N, C, H, W).
        gradients: Logits and gradient of images and a weighting of the logits (N, classes).
        logits: Logits of images.
        classes: Whose logits.
    """
    xp, whole = library(images), logits(images)
    change = np.abs(to_numpy(whole) - to_numpy(logits(xp.zeros_like(images))))
    for one in classes:
        weighting = np.zeros(whole.shape, np.float32)
        weighting[:, one] = 1.0
        _, gradient = gradients(images, constant_like(weighting, whole))

        def scores(rows: Array, owners: Array, one: int = one) -> npt.NDArray[np.float64]:
            return to_numpy(logits(rows))[:, one].astype(np.float64)

        measured = slope_errors(images, gradient, change[:, one], scores)
        yield 1.0 + measured, np.ones(len(measured)), 0.0


def slope_errors(
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
    reserve_for((12, *start.shape), start, "what gradients are checked by", itemsize=4)
    odd = [(np.arange(size) % 2).astype(np.bool_) for size in (channels, height, width)]
    even = constant_like((odd[0][:, None, None] ^ odd[1][:, None] ^ odd[2]).astype(np.float32), start)
    parts = xp.concat([gradient * even, gradient * (1.0 - even)])
    squared, size = (
        np.asarray(to_numpy(xp.sum(values * values, axis=(1, 2, 3), dtype=xp.float64)), np.float64)
        for values in (parts, start)
    )
    wanted, size = np.tile(change, 2).astype(np.float64), np.tile(size, 2)
    steep = np.isfinite(squared) & (squared > 0) & (wanted > 0)
    measured = np.where(steep, np.inf, 0.0)
    for share in STEPS:
        if (np.abs(measured) <= SLOPE_TOLERANCE).all():
            break
        lengths = share * np.minimum(
            np.divide(wanted, squared, out=np.zeros(len(wanted)), where=steep),
            np.sqrt(np.divide(size, squared, out=np.zeros(len(wanted)), where=steep)),
        )
        rows = zeros((2, *parts.shape), start)  # there, and back
        rows[0] = parts * constant_like(lengths.astype(np.float32)[:, None, None, None], parts)
        rows[1] = rows[0]
        rows[1] *= -1
        rows = xp.reshape(rows, (4, *start.shape))
        rows += start
        owners = constant_like(np.tile(np.arange(count), 4), start)
        found = scores(xp.reshape(rows, (4 * count, *start.shape[1:])), owners)
        risen: Any = (found[: 2 * count] - found[2 * count :]) / 2
        error = np.divide(risen - lengths * squared, share * wanted, out=np.zeros(len(wanted)), where=steep)
        measured = np.where(np.abs(error) < np.abs(measured), error, measured)
    return measured
