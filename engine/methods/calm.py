"""CALM's attributions: probabilities that the model itself holds, one forward pass each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from camrt.engine.arrays import arange_like, constant_like, library, repeat, to_float32
from camrt.engine.class_sets import class_sets
from camrt.engine.heads import Head
from camrt.engine.methods.base import Cost, MapShape, Method
from camrt.engine.queries import HeadQueries, Need
from camrt.errors import MethodError, TargetError

__all__ = ["CALM"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


@dataclass(frozen=True, kw_only=True)
class CALM(Method):
    """CALM: where the evidence for a class is, as the model's own probability of class and place.

    "Keep CALM and Improve Visual Feature Attribution" (ICCV 2021), section 3.3 and supplement; with y the
    target class and z a cell of the map:

    - "joint": p(y,z|x). It adds up to p(y|x), the score.
    - "conditional": p(y|x,z), what the model would say of that cell alone. (The formula in the paper.)
    - "posterior": p(z|x,y) = p(y,z|x) / p(y|x). It adds up to 1. (The paper's words for the conditional, and
      its code.)
    - "saliency": p(z|x) = Σ_y p(y,z|x), the same for every class. It adds up to 1.
    - "subset": Σ_{y in Y} p(y,z|x), for a set of classes Y. It adds up to p(Y|x), the score.
    - "counterfactual": p(y,z|x) − p(y',z|x), why y and not y'. It adds up to p(y|x) − p(y'|x), the score.

    The raw maps are these numbers, on the model's own grid; saliency maps are brought to [0, 1] as other
    methods' are, and mean no probability any more.

    Attributes:
        kind: Which of them.
        classes: For "subset", Y: class indices; or "all"; or "imagenet" or "imagenet-outermost", the superset
            that the target belongs to (`camrt.engine.class_sets`). None takes the target alone.
        average: For "subset", divide by the number of classes in Y.
        against: For "counterfactual", y'; None takes the most probable class other than the target.
    """

    name: ClassVar[str] = "calm"
    no_contrast: ClassVar[str] = "kind='counterfactual' with against= is its own"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.JOINT})

    kind: Literal["joint", "conditional", "posterior", "saliency", "subset", "counterfactual"] = "joint"
    classes: str | Sequence[int] | None = None
    average: bool = False
    against: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, kind in (("classes", "subset"), ("average", "subset"), ("against", "counterfactual")):
            if getattr(self, option) not in (None, False) and self.kind != kind:
                raise MethodError(f"calm: {option} is for kind={kind!r}, not {self.kind!r}")
        if self.classes is not None and not isinstance(self.classes, str):
            chosen = (self.classes,) if isinstance(self.classes, int) else tuple(self.classes)
            if not chosen or not all(
                isinstance(c, (int, np.integer)) and not isinstance(c, bool) for c in chosen
            ):
                raise MethodError(
                    f"calm: classes={self.classes!r} must be class indices, or the name of a set of classes"
                )
            object.__setattr__(self, "classes", tuple(int(c) for c in chosen))
        if self.against is not None and (
            isinstance(self.against, bool) or not isinstance(self.against, (int, np.integer))
        ):
            raise MethodError(f"calm: against={self.against!r} must be a class index")

    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        log_joint, targets = queries.log_joint(), queries.targets
        xp = library(log_joint)
        log_joint = xp.astype(log_joint, xp.float64)
        if self.kind in ("joint", "conditional", "posterior"):
            maps = xp.take_along_axis(log_joint, targets[:, :, None, None], axis=1)
            scores = xp.sum(xp.exp(maps), axis=(2, 3))
            if self.kind == "conditional":
                maps = maps - log_sum_exp(log_joint, 1)
            elif self.kind == "posterior":
                maps = maps - log_sum_exp(log_sum_exp(maps, 3), 2)
            return to_float32(xp.exp(maps)), to_float32(scores)
        joint = xp.exp(log_joint)
        if self.kind == "saliency":
            maps = repeat(xp.sum(joint, axis=1, keepdims=True), targets.shape[1], axis=1)
        elif self.kind == "subset":
            maps = sum_over_classes(joint, self._members(targets, joint.shape[1]), average=self.average)
        else:
            other = self._others(queries, targets, joint.shape[1])
            maps = xp.take_along_axis(joint, targets[:, :, None, None], axis=1)
            maps = maps - xp.take_along_axis(joint, other[:, :, None, None], axis=1)
        return to_float32(maps), to_float32(xp.sum(maps, axis=(2, 3)))

    def cost(self, head: Head, shape: MapShape) -> Cost:
        return Cost(0, 0, "the model holds them")

    def _members(self, targets: Array, count: int) -> Array:
        """(N, T, C): which classes are taken together for each target."""
        if isinstance(self.classes, str):
            sets = constant_like(class_sets(self.classes, count), targets)
            return sets[targets][:, :, None] == sets
        if self.classes is None:
            return targets[:, :, None] == arange_like(count, targets)
        outside = [c for c in self.classes if not 0 <= c < count]
        if outside:
            raise TargetError(
                f"calm: class {outside[0]} in classes= is out of range; the model has {count} classes"
            )
        marked = constant_like(np.isin(np.arange(count), self.classes), targets)
        return library(targets).broadcast_to(marked, (*targets.shape, count))

    def _others(self, queries: HeadQueries, targets: Array, count: int) -> Array:
        """(N, T): the class that each target is held against."""
        xp = library(targets)
        if self.against is not None:
            if not 0 <= self.against < count:
                raise TargetError(
                    f"calm: against={self.against} is out of range; the model has {count} classes"
                )
            return xp.full_like(targets, self.against)
        if count < 2:
            raise TargetError("calm: a model of one class has none to hold against it")
        order = xp.argsort(-queries.logits, axis=1, stable=True)
        first, second = order[:, :1], order[:, 1:2]
        return xp.where(targets == first, second, first)


def log_sum_exp(values: Array, axis: int) -> Array:
    """Log Σ exp over an axis, which is kept."""
    xp = library(values)
    top = xp.max(values, axis=axis, keepdims=True)
    return top + xp.log(xp.sum(xp.exp(values - top), axis=axis, keepdims=True))


def sum_over_classes(joint: Array, members: Array, *, average: bool) -> Array:
    """Sums (N, T, h, w) of p(y,z|x) (N, C, h, w) over the classes that `members` (N, T, C) marks."""
    xp = library(joint, members)
    weights = xp.astype(members, joint.dtype)
    if average:
        weights = weights / xp.sum(weights, axis=2, keepdims=True)
    flat = xp.matmul(weights, xp.reshape(joint, (*joint.shape[:2], -1)))
    return xp.reshape(flat, (*members.shape[:2], *joint.shape[2:]))
