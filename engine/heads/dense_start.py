"""Channel ablation when φ mixes channels but begins with an affine layer (a 1×1 convolution)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from camrt.engine.arrays import repeated, zeros
from camrt.engine.backends import Runner
from camrt.engine.heads.base import Asked, channels_where, fill_and_run
from camrt.engine.operations import operations
from camrt.engine.places import HOST, Place

__all__ = ["DenseStart"]

Array = Any


class DenseStart:
    """Takes weight[:, k] · A_k out of the first layer's answer, cell by cell; only what follows it is run.

    Args:
        weight: (F, K) of the layer.
        layer: Graph A -> s (N, F, h', w').
        rest: Graph s -> logits.
        batch_size: Rows a batch.
        threads: Threads of the native kernel; None lets it choose.
        place: Where the head's arrays lie.
    """

    def __init__(
        self,
        weight: npt.NDArray[Any],
        layer: Runner,
        rest: Runner,
        batch_size: int,
        threads: int | None,
        place: Place = HOST,
    ) -> None:
        self._columns = place.put(np.ascontiguousarray(weight.T))
        self._layer = layer
        self._rest = rest
        self._batch_size = batch_size
        self._threads = threads

    def without_channels(self, asked: Asked) -> Array:
        """(N, K, T): the scores with channel k set to zero."""
        activations = asked.activations
        count, channels = activations.shape[:2]
        answers = repeated(asked.scores[:, None], channels, axis=1)
        for start in range(0, count, self._batch_size):
            block = slice(start, min(start + self._batch_size, count))
            self._answer(asked, block, answers)
        return answers

    def _answer(self, asked: Asked, block: slice, answers: Array) -> None:
        activations = asked.activations[block]
        first = self._layer(activations)[0]
        compute = operations(activations)
        rows_shape = tuple(first.shape[1:])
        padded = surrounded(activations, (rows_shape[1], rows_shape[2]))
        flat = padded.reshape(*padded.shape[:2], -1)
        base = first.reshape(*first.shape[:2], -1)

        def fill(batch_index: Array, channel: Array, rows: Array) -> None:
            out = rows.reshape(len(rows), *base.shape[1:])
            compute.rank_one(base, self._columns, flat, batch_index, channel, out, self._threads)

        def run(rows: Array, batch_index: Array) -> Array:
            asked.passes.head += len(rows)
            return self._rest(rows)[0]

        changed = channels_where(activations)
        for batch_index, channel, logits in fill_and_run(
            changed, rows_shape, self._batch_size, fill, run, self._rest.rows
        ):
            whole = batch_index + block.start
            answers[whole, channel] = asked.reader.read(logits, whole)

    def channel_passes(self, channels: int) -> tuple[int, str]:
        """How many passes a picture costs at most, and why."""
        return channels, "one a channel that is not all zero, through what follows φ's first layer"


def surrounded(maps: Array, size: tuple[int, int]) -> Array:
    """Maps (N, K, h, w) with zeros around them, up to (h', w')."""
    count, channels, height, width = maps.shape
    if (height, width) == size:
        return maps
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    whole = zeros((count, channels, *size), maps)
    whole[:, :, top : top + height, left : left + width] = maps
    return whole
