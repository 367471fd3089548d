"""The gradient of a head of any form: its adjoint graph is run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from camrt.engine.arrays import arange_like, library
from camrt.engine.heads.base import QueryContext
from camrt.engine.runtime import Runner
from camrt.export.adjoint import GRADIENT, WEIGHTING
from camrt.export.heads.last_linear import LastLinear

__all__ = ["HeadAdjoint", "own_weighting"]

Array = Any


class HeadAdjoint:
    """Runs the head's forward and backward pass once per target.

    Args:
        runner: Graph A (N, K, h, w), weighting (N, C) -> gradient (N, K, h, w).
        extra_inputs: Names of the tensors that go around the cut, which the graph takes too.
        start: Name of the tensor of the trunk pass that stands for A; None for the activation.
        last: The layer behind the graph; None where its weighting is of the logits.
    """

    def __init__(
        self,
        runner: Runner,
        extra_inputs: tuple[str, ...] = (),
        start: str | None = None,
        last: LastLinear | None = None,
    ) -> None:
        self._runner = runner
        self._extra_inputs = extra_inputs
        self._start = start
        self._last = last

    def gradients(self, context: QueryContext) -> Iterator[Array]:
        """For each target in turn the gradient of its score, of the shape of what the graph takes."""
        start = context.activations if self._start is None else context.extras[self._start]
        batch_index = arange_like(len(context.activations), context.activations)
        for target in range(context.reader.targets.shape[1]):
            context.passes.head_adjoint += len(batch_index)
            feeds = {name: context.extras[name] for name in self._extra_inputs}
            feeds[WEIGHTING] = (
                context.reader.weighting(context.logits, batch_index, target)
                if self._last is None
                else feature_weighting(context, target, self._last)
            )
            yield self._runner(start, [GRADIENT], feeds)[0]


def feature_weighting(context: QueryContext, target: int, last: LastLinear) -> Array:
    """∂score/∂u of target number `target`, of the shape of u, where logits = W·u + b: (∂score/∂logits)·W."""
    reader, logits = context.reader, context.logits
    if not reader.reads_own_logit:
        rows = reader.weighting(logits, arange_like(len(logits), logits), target) @ last.weight
    else:
        rows = own_weighting(context, target) * last.weight[reader.targets[:, target]]
    return rows.reshape(len(logits), *last.shape)


def own_weighting(context: QueryContext, target: int) -> Array:
    """∂score/∂logit (N, 1) of target number `target` to its own logit, which no softmax is over."""
    xp, logits = library(context.logits), context.logits
    chosen = context.reader.targets[:, target][:, None]
    own = replace(context.reader, targets=xp.zeros_like(chosen))
    return own.weighting(xp.take_along_axis(logits, chosen, axis=1), arange_like(len(logits), logits), 0)
