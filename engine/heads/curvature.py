"""The second derivative of a score along the activation itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from camrt.engine.arrays import arange_like
from camrt.engine.heads.base import QueryContext
from camrt.engine.runtime import Runner
from camrt.export.adjoint import CURVATURE, GRADIENT, RISE, WEIGHTING

__all__ = ["HeadCurvature"]

Array = Any


class HeadCurvature:
    """Runs the graph of a head's gradient and its derivative.

    Of a score s of the logits l, with w = ∂s/∂l and the Hessian H_w of w·l at the activation A,

        H·A = H_w·A + (∂l/∂A)ᵀ · (∂w/∂l) · (∂l/∂A)·A,

    of which a score that is linear in the logits has the first term alone.

    Args:
        runner: Graph A (N, K, h, w), weighting (N, C) -> `build_curvature_model`'s outputs.
        extra_inputs: Names of the tensors that go around the cut, which the graph takes too.
    """

    def __init__(self, runner: Runner, extra_inputs: tuple[str, ...] = ()) -> None:
        self._runner = runner
        self._extra_inputs = extra_inputs

    def __call__(self, context: QueryContext) -> Iterator[tuple[Array, Array]]:
        """For each target in turn the gradient of its score, and the score's Hessian times the activation."""
        reader, logits = context.reader, context.logits
        batch_index = arange_like(len(logits), logits)
        for target in range(reader.targets.shape[1]):
            weighting = reader.weighting(logits, batch_index, target)
            gradient, product, rise = self._run(context, weighting, [GRADIENT, CURVATURE, RISE])
            if not reader.is_linear:
                bent = reader.weighting_change(logits, batch_index, target, rise)
                product = product + self._run(context, bent, [GRADIENT])[0]
            yield gradient, product

    def _run(self, context: QueryContext, weighting: Array, fetch: list[str]) -> list[Array]:
        context.passes.head_adjoint += 2 * len(weighting)  # there and back, and that there and back
        feeds = {name: context.extras[name] for name in self._extra_inputs}
        return self._runner(context.activations, fetch, {**feeds, WEIGHTING: weighting})
