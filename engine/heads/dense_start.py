"""Channel ablation when φ mixes channels but begins with an affine layer (a 1×1 convolution)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from camrt.engine.arrays import repeat
from camrt.engine.device import NUMPY_DEVICE, Device
from camrt.engine.heads.base import QueryContext, find_nonzero_channels, run_altered_rows
from camrt.engine.heads.class_rows import pad_border
from camrt.engine.heads.last_linear import ScoreRunner
from camrt.engine.runtime import Runner
from camrt.kernels.rank_one import rank_one

__all__ = ["DensePhiAblation"]

Array = Any


class DensePhiAblation:
    """Subtracts weight[:, k] · A_k from the first layer's output, cell by cell; only what follows it is run.

    Args:
        weight: (F, K) of the layer.
        layer: Graph A -> s (N, F, h', w').
        rest: s -> logits.
        batch_size: Rows a batch.
        threads: Threads of the native kernel; None lets it choose.
        device: Where the head's arrays lie.
    """

    def __init__(
        self,
        weight: npt.NDArray[Any],
        layer: Runner,
        rest: ScoreRunner,
        batch_size: int,
        threads: int | None,
        device: Device = NUMPY_DEVICE,
    ) -> None:
        self._columns = device.put(np.ascontiguousarray(weight.T))
        self._layer = layer
        self._rest = rest
        self._batch_size = batch_size
        self._threads = threads

    def scores_without_channels(self, context: QueryContext) -> Array:
        """(N, K, T): the scores with channel k set to zero."""
        activations = context.activations
        count, channels = activations.shape[:2]
        answers = repeat(context.scores[:, None], channels, axis=1)
        for start in range(0, count, self._batch_size):
            block = slice(start, min(start + self._batch_size, count))
            self._answer(context, block, answers)
        return answers

    def _answer(self, context: QueryContext, block: slice, answers: Array) -> None:
        activations = context.activations[block]
        first = self._layer(activations)[0]
        rows_shape = tuple(first.shape[1:])
        padded = pad_border(activations, (rows_shape[1], rows_shape[2]))
        flat = padded.reshape(*padded.shape[:2], -1)
        base = first.reshape(*first.shape[:2], -1)

        def fill(batch_index: Array, channel: Array, rows: Array) -> None:
            out = rows.reshape(len(rows), *base.shape[1:])
            rank_one(base, self._columns, flat, batch_index, channel, out, threads=self._threads)

        def run(rows: Array, batch_index: Array) -> Array:
            context.passes.head += len(rows)
            return self._rest.scores(rows, context.reader, batch_index + block.start)

        changed = find_nonzero_channels(activations)
        for batch_index, channel, scores in run_altered_rows(
            changed, rows_shape, self._batch_size, fill, run, self._rest.allocate_rows
        ):
            answers[batch_index + block.start, channel] = scores

    def channel_passes(self, channels: int) -> tuple[int, str]:
        """How many passes an image costs at most, and why."""
        return channels, "one a channel that is not all zero, through what follows φ's first layer"
