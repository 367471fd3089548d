"""What a score is held against: other classes, or its own negative.

    score = ±(s_c − γ · Σ_r q_r · s_r)

with s_c the target's logit or probability and s_r those of its R rivals. A rival is a class like any other:
heads answer for it as for one target more, and the gradient of the whole takes one weighting of the logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from camrt.engine.arrays import arange_like, constant_like, library, reserve_for, to_float32
from camrt.errors import MethodError, TargetError
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["SIMILAR", "Contrast", "Rivals"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
SIMILAR = ("similar", "similar-weighted")
"""Rivals that are found, not named."""
FINER_STRENGTH = 0.6  # γ of Finer-CAM


@dataclass(frozen=True, eq=False)
class Rivals:
    """The classes that each target of a batch is held against.

    Attributes:
        classes: (N, T, R); R may be 0.
        strength: γ.
        sign: 1, or −1 for the negative of the score.
        weighted: Whether q_r is the softmax of the rivals' own logits, and not 1/R.
    """

    classes: Array
    strength: float
    sign: int
    weighted: bool

    @property
    def group(self) -> int:
        """How many classes a score is made of: the target and its rivals."""
        return 1 + int(self.classes.shape[2])

    def for_target(self, target: int) -> Rivals:
        """Those of target number `target` alone."""
        return replace(self, classes=self.classes[:, target : target + 1])

    def for_images(self, batch_index: Array) -> Rivals:
        """Those of the images (B,) given."""
        return replace(self, classes=self.classes[batch_index])

    def beside(self, targets: Array) -> Array:
        """(N, T·(1 + R)): each target (N, T) followed by its rivals."""
        every = library(targets).concat([targets[:, :, None], self.classes], axis=2)
        return every.reshape(len(targets), -1)

    @ignore_float_errors
    def coefficients(self, scores: Array) -> Array:
        """What each of (..., 1 + R) scores counts for in the sum: ±1, and ∓γ·q."""
        xp, count = library(scores), self.group - 1
        if not self.weighted:
            shares = [1.0, *[-self.strength / count] * count] if count else [1.0]
            return constant_like(self.sign * np.array(shares), scores)
        shares = rival_shares(scores)
        return self.sign * xp.concat([xp.ones_like(scores[..., :1]), -self.strength * shares], axis=-1)

    @ignore_float_errors
    def slopes(self, scores: Array) -> Array:
        """∂score/∂s of each of (..., 1 + R) scores: q moves with the logits it is made of."""
        if not self.weighted:
            return self.coefficients(scores)
        xp = library(scores)
        others, shares = scores[..., 1:], rival_shares(scores)
        mean = xp.sum(shares * others, axis=-1, keepdims=True)
        moved = -self.strength * shares * (1.0 + others - mean)
        return self.sign * xp.concat([xp.ones_like(scores[..., :1]), moved], axis=-1)

    @ignore_float_errors
    def mix(self, scores: Array) -> Array:
        """The sums (..., T), float32, of the scores (..., T·(1 + R)) of all classes in them."""
        xp = library(scores)
        reserve_for((2, *scores.shape), scores, "scores of targets and their rivals")
        apart = xp.astype(scores, xp.float64).reshape(*scores.shape[:-1], -1, self.group)
        return to_float32(xp.sum(apart * self.coefficients(apart), axis=-1))

    @ignore_float_errors
    def mix_maps(self, maps: Array, scores: Array) -> Array:
        """The sums (N, T, h, w) of class maps (N, T·(1 + R), h, w), given their classes' scores."""
        xp = library(maps, scores)
        apart = maps.reshape(len(maps), -1, self.group, *maps.shape[2:])
        counts = xp.astype(scores, xp.float64).reshape(len(maps), -1, self.group)
        counts = xp.broadcast_to(self.coefficients(counts), counts.shape)
        return to_float32(xp.sum(apart * counts[..., None, None], axis=2))


def is_number(value: Any) -> bool:
    """Whether something is a number, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def class_rows(given: Any) -> tuple[Any, ...]:
    """Class indices, one, (R,) or (T, R), as tuples (R,) or (T, R) of whole numbers."""
    try:
        array = np.array(given)
    except ValueError:  # rows of different lengths
        array = np.array(None)
    if array.dtype.kind not in "iu" or not 0 <= array.ndim <= 2 or not array.size or array.min() < 0:
        raise MethodError(
            f"contrast={given!r} must be 'similar', 'similar-weighted', one class index or several, or "
            "(T, R), as many for each of T targets"
        )
    rows = np.atleast_1d(array).tolist()
    return tuple(tuple(row) if isinstance(row, list) else row for row in rows)


def rival_shares(scores: Array) -> Array:
    """Softmax of all but the first of (..., 1 + R) scores."""
    xp, others = library(scores), scores[..., 1:]
    raised = xp.exp(others - xp.max(others, axis=-1, keepdims=True))
    return raised / xp.sum(raised, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Contrast:
    """What scores are held against, as a caller asks for it.

    Attributes:
        against: Classes, (R,) for every target or (T, R), as tuples; or one of `SIMILAR`; None for none.
        strength: γ.
        count: How many similar classes are taken; fewer where there are fewer.
        negated: Whether scores are turned around.
    """

    against: str | tuple[Any, ...] | None = None
    strength: float = 1.0
    count: int = 3
    negated: bool = False

    @classmethod
    def of_options(cls, against: Any, strength: Any, rivals: Any, negated: bool) -> Contrast:
        """A contrast of a method's options, see `camrt.engine.methods.Method`.

        Raises:
            MethodError: Options that are no such thing, or would have no effect.
        """
        if isinstance(against, str):
            if against not in SIMILAR:
                known = ", ".join(map(repr, SIMILAR))
                raise MethodError(f"contrast={against!r} must be {known}, or class indices")
        elif against is not None:
            against = class_rows(against)
        if strength is None:
            strength = FINER_STRENGTH if against == "similar" else 1.0
        elif against is None:
            raise MethodError(f"strength={strength!r} is of a contrast: give contrast= too")
        elif (
            isinstance(strength, bool)
            or not isinstance(strength, (int, float))
            or not 0 <= strength < math.inf
        ):
            raise MethodError(f"strength={strength!r} must be a number >= 0")
        if rivals is None:
            rivals = 3
        elif not isinstance(against, str):
            raise MethodError(f"rivals={rivals!r} counts similar classes: give contrast='similar' too")
        elif not is_number(rivals) or not isinstance(rivals, int) or rivals < 1:
            raise MethodError(f"rivals={rivals!r} must be a whole number >= 1")
        return cls(against, float(strength), rivals, negated)

    @property
    def is_plain(self) -> bool:
        """Whether scores are the targets' own."""
        return self.against is None and not self.negated

    def find_rivals(self, targets: Array, logits: Array) -> Rivals | None:
        """Whom targets (N, T) of images with logits (N, C) are held against; None where they are not.

        Raises:
            TargetError: A class out of range, rivals of another number of targets, or a model of one class.
        """
        if self.is_plain:
            return None
        if self.against is None:
            classes = targets[:, :, None][:, :, :0]
        elif isinstance(self.against, str):
            classes = most_similar(targets, logits, self.count)
        else:
            classes = self._given(targets, logits.shape[1])
        return Rivals(classes, self.strength, -1 if self.negated else 1, self.against == "similar-weighted")

    def _given(self, targets: Array, classes: int) -> Array:
        given = np.array(self.against)  # (R,) or (T, R), perhaps beyond int64
        if given.ndim == 2 and len(given) != targets.shape[1]:
            raise TargetError(
                f"contrast= has the rivals of {len(given)} targets, and {targets.shape[1]} are explained"
            )
        if given.max() >= classes:
            raise TargetError(
                f"contrast: class {given.max()} is out of range; the model has {classes} classes"
            )
        rows = np.broadcast_to(given.astype(np.int64), (targets.shape[1], given.shape[-1]))
        return library(targets).broadcast_to(
            constant_like(np.ascontiguousarray(rows), targets), (len(targets), *rows.shape)
        )


def most_similar(targets: Array, logits: Array, count: int) -> Array:
    """(N, T, R): the other classes whose logits are nearest to each target's, in the order of classes."""
    classes = logits.shape[1]
    if classes < 2:
        raise TargetError("a model of one class has no other to hold it against")
    xp = library(targets, logits)
    reserve_for((3, *targets.shape, classes), logits, "distances between logits")
    own = xp.take_along_axis(logits, targets, axis=1)
    distances = xp.abs(logits[:, None] - own[:, :, None])
    itself = targets[:, :, None] == arange_like(classes, logits)
    distances = xp.where(itself, xp.full_like(distances, -1.0), distances)
    return xp.argsort(distances, axis=2, stable=True)[:, :, 1 : 1 + count]
