"""Scores: what a method explains, read off logits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeVar, cast

from camrt.engine.arrays import arange_like, library, to_float32, zeros
from camrt.engine.contrast import Rivals
from camrt.export.outputs.output_form import InverseLink
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["ScoreKind", "ScoreReader", "probabilities"]

Array = TypeVar("Array")  # of NumPy or of torch, see `camrt.engine.arrays`
ScoreKind = Literal["logit", "probability"]


@ignore_float_errors
def probabilities(logits: Array, activation: InverseLink) -> Array:
    """Class probabilities of logits (..., C), float32; NaN where a logit is NaN, and of plain numbers."""
    xp = library(logits)
    if activation == "none":
        undefined: Array = to_float32(xp.full_like(logits, float("nan")))
        return undefined
    wide = xp.astype(logits, xp.float64)
    if activation == "sigmoid":
        # exp of a negative number only: no overflow for either sign.
        small = xp.exp(-xp.abs(wide))
        shares = xp.where(wide >= 0, 1.0 / (1.0 + small), small / (1.0 + small))
    elif activation == "exp":
        shares = xp.exp(wide)
    else:
        exponentials = xp.exp(wide - xp.max(wide, axis=-1, keepdims=True))
        shares = exponentials / xp.sum(exponentials, axis=-1, keepdims=True)
    result: Array = to_float32(shares)
    return result


@ignore_float_errors
def softmax_of(chosen: Array, logits: Array) -> Array:
    """Softmax probabilities (N, T), float32, of some of the classes' logits among all (N, C).

    The largest terms of the sum have small exponents, which float32 holds exactly enough.
    """
    xp = library(logits)
    largest = xp.max(logits, axis=1, keepdims=True)
    total = xp.sum(xp.exp(logits - largest), axis=1, keepdims=True, dtype=xp.float64)
    own = xp.exp(xp.astype(chosen, xp.float64) - xp.astype(largest, xp.float64))
    shares: Array = to_float32(own / total)
    return shares


@dataclass(frozen=True)
class ScoreReader:
    """Reads the target classes' scores off logits.

    Attributes:
        targets: (N, T) class indices.
        kind: Logit, or probability after the model's activation.
        activation: How this model's logits become probabilities, see `Interface.inverse_link`.
        rivals: The classes that targets are held against; None where a score is the target's own.
    """

    targets: Any
    kind: ScoreKind
    activation: InverseLink
    rivals: Rivals | None = None

    @cached_property
    def one_by_one(self) -> ScoreReader:
        """What reads the scores of every class that takes part, targets each followed by their rivals."""
        if self.rivals is None:
            return self
        return replace(self, targets=self.rivals.beside(self.targets), rivals=None)

    def mix(self, scores: Array) -> Array:
        """Scores (..., T) of those that `one_by_one` reads."""
        return scores if self.rivals is None else cast("Array", self.rivals.mix(scores))

    def read(self, logits: Array, batch_index: Any) -> Array:
        """Scores (B, T) of logits (B, C), row b belonging to image `batch_index[b]`."""
        if self.rivals is not None:
            return self.mix(self.one_by_one.read(logits, batch_index))
        chosen: Array = library(logits).take_along_axis(logits, self.targets[batch_index], axis=1)
        return softmax_of(chosen, logits) if self.needs_softmax else self.scores_of_target_logits(chosen)

    def weighting(self, logits: Any, batch_index: Any, target: int) -> Any:
        """∂score/∂logits (B, C) of target number `target` of image `batch_index[b]`, at logits (B, C).

        A logit c has the unit vector e_c. A softmax's p_c has p_c·(e_c − p), a sigmoid's p_c·(1 − p_c)·e_c,
        and an exponential's p_c·e_c. Of a score with rivals it is the same sum of theirs.
        """
        if self.rivals is not None:
            return self._mixed_weighting(self.rivals, logits, batch_index, target)
        xp = library(logits)
        classes = self.targets[batch_index, target][:, None]
        own = arange_like(logits.shape[1], logits)[None] == classes
        zero = xp.zeros_like(logits)
        if self.kind == "logit":
            return xp.where(own, xp.ones_like(logits), zero)
        # 1 − p_c is never computed so: it has no digits left where p_c is nearly one
        if not self.needs_softmax:
            chosen = xp.take_along_axis(logits, classes, axis=1)
            slope = probabilities(chosen, self.activation)
            if self.activation == "sigmoid":
                slope = slope * probabilities(-chosen, "sigmoid")
            return xp.where(own, slope, zero)
        shares = probabilities(logits, "softmax")
        others = xp.where(own, zero, shares)
        rest = xp.sum(others, axis=1, keepdims=True)
        return xp.take_along_axis(shares, classes, axis=1) * xp.where(own, rest, -others)

    def _mixed_weighting(self, rivals: Rivals, logits: Any, batch_index: Any, target: int) -> Any:
        xp, first = library(logits), target * rivals.group
        each = slice(first, first + rivals.group)
        slopes = rivals.slopes(xp.astype(self.one_by_one.read(logits, batch_index)[:, each], xp.float64))
        slopes = xp.broadcast_to(slopes, (len(logits), rivals.group))
        total = xp.zeros_like(logits, dtype=xp.float64)
        for place in range(rivals.group):
            part = self.one_by_one.weighting(logits, batch_index, first + place)
            total = total + slopes[:, place : place + 1] * part
        return to_float32(total)

    def weighting_change(self, logits: Any, batch_index: Any, target: int, rise: Any) -> Any:
        """What `weighting` (B, C) changes by where the logits rise by `rise` (B, C), to first order.

        A softmax's p_c·(e_c − p) changes by −p_i·p_c·(d_i − 2m) at i ≠ c and by −p_c·m·(1 − 2p_c) at c, with
        d_i = rise_i − rise_c and m = Σ_i p_i·d_i; a sigmoid's by p·(1 − p)·(1 − 2p)·rise at c, and an
        exponential's by p·rise. Rivals that are weighted by their logits are not asked for.
        """
        if self.rivals is not None:
            first, each = target * self.rivals.group, range(self.rivals.group)
            counts = self.rivals.coefficients(zeros((self.rivals.group,), logits, "float64"))
            changes = [
                self.one_by_one.weighting_change(logits, batch_index, first + place, rise) for place in each
            ]
            return to_float32(sum(counts[place] * changes[place] for place in each))
        xp = library(logits)
        classes = self.targets[batch_index, target][:, None]
        own = arange_like(logits.shape[1], logits)[None] == classes
        wide = xp.astype(rise, xp.float64)
        here = xp.take_along_axis(wide, classes, axis=1)
        zero = xp.zeros_like(wide)
        if self.kind == "logit":
            return to_float32(zero)
        if not self.needs_softmax:
            chosen = xp.take_along_axis(logits, classes, axis=1)
            change = probabilities(chosen, self.activation) * here
            if self.activation == "sigmoid":
                rest = probabilities(-chosen, "sigmoid")
                change = change * rest * (rest - probabilities(chosen, "sigmoid"))
            return to_float32(xp.where(own, change, zero))
        shares = xp.astype(probabilities(logits, "softmax"), xp.float64)
        chosen = xp.take_along_axis(shares, classes, axis=1)
        others = xp.where(own, zero, shares)
        apart = wide - here
        mean = xp.sum(others * apart, axis=1, keepdims=True)
        rest = xp.sum(others, axis=1, keepdims=True)
        at_own = -mean * (rest - chosen)
        return to_float32(chosen * xp.where(own, at_own, -others * (apart - 2.0 * mean)))

    @property
    def is_linear(self) -> bool:
        """Whether scores are linear in the logits."""
        return self.kind == "logit" and not (self.rivals is not None and self.rivals.weighted)

    @property
    def reads_own_logit(self) -> bool:
        """Whether a target's score depends on its own logit alone."""
        return self.rivals is None and not self.needs_softmax

    @property
    def needs_softmax(self) -> bool:
        """Whether a target's score depends on the logits of all classes."""
        return self.kind == "probability" and self.activation == "softmax"

    def scores_of_target_logits(self, target_logits: Array) -> Array:
        """Scores of the targets' own logits, when they depend on nothing else."""
        if self.kind == "probability" and not self.needs_softmax:
            return probabilities(target_logits, self.activation)
        return target_logits
