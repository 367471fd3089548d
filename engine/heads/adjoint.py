"""The gradient of a head of any form: its adjoint graph is run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from camrt.engine.arrays import numbered
from camrt.engine.backends import Runner
from camrt.engine.heads.base import Asked
from camrt.export.adjoint import GRADIENT, WEIGHTING

__all__ = ["HeadAdjoint"]

Array = Any


class HeadAdjoint:
    """Runs the head forth and back once a target.

    Args:
        runner: Graph A (N, K, h, w), weighting (N, C) -> gradient (N, K, h, w).
        beside: Names of the tensors that go around the cut, which the graph takes too.
        start: Name of the tensor of the trunk pass that stands for A; None for the activation.
    """

    def __init__(self, runner: Runner, beside: tuple[str, ...] = (), start: str | None = None) -> None:
        self._runner = runner
        self._beside = beside
        self._start = start

    def gradients(self, asked: Asked) -> Iterator[Array]:
        """For each target in turn the gradient of its score, of the shape of what the graph takes."""
        start = asked.activations if self._start is None else asked.extras[self._start]
        images = numbered(len(asked.activations), asked.activations)
        for target in range(asked.reader.targets.shape[1]):
            asked.passes.head_adjoint += len(images)
            feeds = {name: asked.extras[name] for name in self._beside}
            feeds[WEIGHTING] = asked.reader.weighting(asked.logits, images, target)
            yield self._runner(start, [GRADIENT], feeds)[0]
