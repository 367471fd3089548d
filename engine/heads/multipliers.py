"""What a head hands back of a logit by the rules of DeepLIFT and LRP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from camrt.engine.arrays import arange_like, library, zeros
from camrt.engine.heads.base import QueryContext
from camrt.engine.runtime import Runner
from camrt.export.adjoint import EPSILON, GRADIENT, REFERENCE, WEIGHTING

__all__ = ["HeadMultipliers", "HeadRelevance"]

Array = Any
LRP_EPSILON = 1e-9


class HeadMultipliers:
    """Runs the graph of the rescale rule, against an empty activation, once a target.

    Args:
        runner: Graph A (N, K, h, w), reference, weighting (N, C) -> multipliers (N, K, h, w).
        extra_inputs: Names of the tensors that go around the cut, which the graph takes too.
    """

    def __init__(self, runner: Runner, extra_inputs: tuple[str, ...] = ()) -> None:
        self._runner = runner
        self._extra_inputs = extra_inputs

    def __call__(self, context: QueryContext) -> Iterator[Array]:
        """For each target in turn the multipliers of its logit, (N, K, h, w)."""
        reference = library(context.activations).zeros_like(context.activations)
        yield from run_targets(self._runner, context, self._extra_inputs, {REFERENCE: reference})


class HeadRelevance:
    """Runs the graph of LRP's z⁺-rule once a target, whose relevance is held against the other classes'.

    Args:
        runner: Graph A (N, K, h, w), ε (N,), what is handed back (N, C) -> relevance (N, K, h, w).
        extra_inputs: Names of the tensors that go around the cut, which the graph takes too.
    """

    def __init__(self, runner: Runner, extra_inputs: tuple[str, ...] = ()) -> None:
        self._runner = runner
        self._extra_inputs = extra_inputs

    def __call__(self, context: QueryContext) -> Iterator[Array]:
        """For each target in turn the relevance (N, K, h, w) of its logit z, with −z/C at all others."""
        level = zeros((len(context.activations),), context.activations) + np.float32(LRP_EPSILON)
        yield from run_targets(
            self._runner, context, self._extra_inputs, {EPSILON: level}, against_others=True
        )


def run_targets(
    runner: Runner,
    context: QueryContext,
    extra_inputs: tuple[str, ...],
    given: dict[str, Array],
    *,
    against_others: bool = False,
) -> Iterator[Array]:
    """Runs a graph once a target, with the target's weighting of the logits."""
    reader, logits = context.reader, context.logits
    xp = library(logits)
    batch_index = arange_like(len(logits), logits)
    feeds = {name: context.extras[name] for name in extra_inputs} | given
    for target in range(reader.targets.shape[1]):
        context.passes.head_adjoint += len(batch_index)
        weighting = reader.weighting(logits, batch_index, target)
        if against_others:
            own = xp.sum(weighting * logits, axis=1, keepdims=True)
            weighting = own * xp.where(
                weighting != 0, weighting, xp.full_like(weighting, -1.0 / logits.shape[1])
            )
        yield runner(context.activations, [GRADIENT], {**feeds, WEIGHTING: weighting})[0]
