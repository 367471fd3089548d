"""The gradient of a head of any form: its adjoint graph is run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from camrt.engine.arrays import arange_like
from camrt.engine.heads.base import QueryContext
from camrt.engine.runtime import Runner
from camrt.export.adjoint import GRADIENT, WEIGHTING

__all__ = ["HeadAdjoint"]

Array = Any


class HeadAdjoint:
    """Runs the head's forward and backward pass once per target.

    Args:
        runner: Graph A (N, K, h, w), weighting (N, C) -> gradient (N, K, h, w).
        extra_inputs: Names of the tensors that go around the cut, which the graph takes too.
        start: Name of the tensor of the trunk pass that stands for A; None for the activation.
    """

    def __init__(self, runner: Runner, extra_inputs: tuple[str, ...] = (), start: str | None = None) -> None:
        self._runner = runner
        self._extra_inputs = extra_inputs
        self._start = start

    def gradients(self, context: QueryContext) -> Iterator[Array]:
        """For each target in turn the gradient of its score, of the shape of what the graph takes."""
        start = context.activations if self._start is None else context.extras[self._start]
        batch_index = arange_like(len(context.activations), context.activations)
        for target in range(context.reader.targets.shape[1]):
            context.passes.head_adjoint += len(batch_index)
            feeds = {name: context.extras[name] for name in self._extra_inputs}
            feeds[WEIGHTING] = context.reader.weighting(context.logits, batch_index, target)
            yield self._runner(start, [GRADIENT], feeds)[0]
