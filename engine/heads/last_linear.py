"""Scores of a head whose last layer is linear: of the targets' rows alone, where they read no others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from camrt.engine.arrays import library, reserve_for
from camrt.engine.runtime import Runner
from camrt.engine.scores import ScoreReader
from camrt.export.heads.last_linear import LastLinear
from camrt.kernels.hidden_scores import FUNCTIONS, hidden_scores

__all__ = ["ScoreRunner"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`

# Where an activation function is looked at: closely where they bend, and far out.
PROBES = np.concatenate(
    [np.linspace(-8, 8, 4001), np.geomspace(8, 1e6, 100), -np.geomspace(8, 1e6, 100)]
).astype(np.float32)
FUNCTION_TOLERANCE = 2e-6  # of the number: a few units in the last place


class ScoreRunner:
    """Runs altered rows through a head, or a part of it that ends in the logits, and reads their scores.

    Args:
        runner: Graph rows -> logits (N, C); where there is a last layer, rows -> what that reads.
        last: The last layer; None where the runner gives the logits.
        last_runner: Graph of that layer, for scores that need the logits of all classes.
        is_one_function: Whether the runner applies one function to every number.
    """

    def __init__(
        self,
        runner: Runner,
        last: LastLinear | None = None,
        last_runner: Runner | None = None,
        *,
        is_one_function: bool = False,
    ) -> None:
        self._runner = runner
        self.last = last
        self._last_runner = last_runner
        self._is_one_function = is_one_function

    @cached_property
    def function(self) -> str | None:
        """The activation function that the runner applies, where it is one that `hidden_scores` has."""
        if self.last is None or not self._is_one_function:
            return None
        width = math.prod(self.last.shape)
        rows = np.resize(PROBES, (-(-len(PROBES) // width), width))
        found = self._runner(rows)[0].reshape(rows.shape)
        scale = np.maximum(np.abs(rows), 1)
        for name, function in FUNCTIONS.items():
            with np.errstate(over="ignore"):
                expected = function(rows.astype(np.float64))
            if (np.abs(found - expected) <= FUNCTION_TOLERANCE * scale).all():
                return name
        return None

    def altered_scores(
        self,
        base: Array,
        weight: Array,
        factor: Array,
        batch_index: Array,
        row: Array,
        reader: ScoreReader,
        images: slice,
        threads: int | None,
    ) -> Array:
        """Scores (B, T) of rows base[n] − factor[b] · weight[row[b]], n = batch_index[b], by `function`.

        Args:
            base: (n, F), of some images.
            weight: (K, F).
            factor: (B,).
            batch_index: (B,), among these images.
            row: (B,).
            reader: Of a score that reads its class's own logit.
            images: Which images these are.
            threads: Of the kernel.
        """
        assert self.last is not None
        assert self.function is not None
        targets = reader.targets[images]
        reserve_for((*targets.shape, base.shape[1]), base, "rows of the last layer", itemsize=4)
        rows = self.last.weight[targets]
        logits = hidden_scores(base, weight, factor, batch_index, row, rows, self.function, threads=threads)
        return reader.scores_of_target_logits(logits + self.last.bias[targets[batch_index]])

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs, the first of which is the logits or becomes them."""
        return self._runner.outputs

    def allocate_rows(self, shape: tuple[int, ...]) -> Any:
        """An array to be written and then given to the runner."""
        return self._runner.allocate_rows(shape)

    def run(self, rows: Array, extra_inputs: Mapping[str, Array] | None = None) -> list[Array]:
        """Logits (N, C), and whatever else the graph gives."""
        first, *others = self._runner(rows, None, extra_inputs)
        return [first if self.last is None else self._all_logits(first), *others]

    def scores(
        self,
        rows: Array,
        reader: ScoreReader,
        batch_index: Array,
        extra_inputs: Mapping[str, Array] | None = None,
    ) -> Array:
        """Scores (B, T) of altered rows, row b belonging to image `batch_index[b]`."""
        found = self._runner(rows, None, extra_inputs)[0]
        if self.last is None:
            return reader.read(found, batch_index)
        if reader.needs_softmax:
            return reader.read(self._all_logits(found), batch_index)
        xp = library(found)
        targets = reader.targets[batch_index]
        chosen, places = xp.unique_inverse(targets)
        if 2 * len(chosen) > len(self.last.bias):  # most of the layer
            return reader.read(self._all_logits(found), batch_index)
        features = found.reshape(len(found), -1)
        logits = features @ self.last.weight[chosen].T + self.last.bias[chosen]
        own = xp.take_along_axis(logits, places.reshape(targets.shape), axis=1)
        return reader.scores_of_target_logits(own)

    def _all_logits(self, features: Array) -> Array:
        assert self._last_runner is not None
        return self._last_runner(features.reshape(len(features), -1))[0]
