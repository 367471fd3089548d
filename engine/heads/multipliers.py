"""DeepLIFT's multipliers of a head, against an empty activation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from camrt.engine.arrays import arange_like, library
from camrt.engine.heads.base import QueryContext
from camrt.engine.runtime import Runner
from camrt.export.adjoint import GRADIENT, REFERENCE, WEIGHTING

__all__ = ["HeadMultipliers"]

Array = Any


class HeadMultipliers:
    """Runs the graph of the rescale rule once a target.

    Args:
        runner: Graph A (N, K, h, w), reference, weighting (N, C) -> multipliers (N, K, h, w).
        extra_inputs: Names of the tensors that go around the cut, which the graph takes too.
    """

    def __init__(self, runner: Runner, extra_inputs: tuple[str, ...] = ()) -> None:
        self._runner = runner
        self._extra_inputs = extra_inputs

    def __call__(self, context: QueryContext) -> Iterator[Array]:
        """For each target in turn the multipliers of its logit, (N, K, h, w)."""
        activations = context.activations
        batch_index = arange_like(len(activations), activations)
        feeds = {name: context.extras[name] for name in self._extra_inputs}
        feeds[REFERENCE] = library(activations).zeros_like(activations)
        for target in range(context.reader.targets.shape[1]):
            context.passes.head_adjoint += len(batch_index)
            feeds[WEIGHTING] = context.reader.weighting(context.logits, batch_index, target)
            yield self._runner(activations, [GRADIENT], feeds)[0]
