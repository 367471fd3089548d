"""A head of any form: altered activations are batched through its graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from camrt.engine.arrays import library, like, numbered, repeated
from camrt.engine.backends import Runner
from camrt.engine.heads.adjoint import HeadAdjoint
from camrt.engine.heads.base import Asked, Boxes, Head, channels_where, fill_and_run, pairs_where
from camrt.engine.operations import operations
from camrt.kernels.caches import ByteCache

__all__ = ["GenericHead"]

Array = Any


class GenericHead(Head):
    """Runs the head's graph on batches of altered activations, across alterations and pictures.

    Alterations that change nothing (a channel or a box that is zero already) are answered without a pass.

    Args:
        runner: Graph A (N, K, h, w) -> logits (N, C).
        adjoint: The way back through it.
        batch_size: Rows a batch.
        reason: Why the head could not be factored, in a sentence.
        threads: Threads of the native kernels; None lets them choose.
        beside: Names of the tensors that go around the cut, which the graph takes too: those of the picture
            that the altered activation comes from.
    """

    kind = "generic"

    def __init__(
        self,
        runner: Runner,
        adjoint: HeadAdjoint,
        batch_size: int,
        reason: str,
        threads: int | None = None,
        beside: tuple[str, ...] = (),
    ) -> None:
        self._runner = runner
        self._adjoint = adjoint
        self._beside = beside
        self._batch_size = batch_size
        self._reason = reason
        self._threads = threads
        self._empty: ByteCache[Array] = ByteCache()

    def without_channels(self, asked: Asked) -> Array:
        activations = asked.activations
        compute = operations(activations)
        answers = repeated(asked.scores[:, None], activations.shape[1], axis=1)
        changed = channels_where(activations)

        def fill(batch_index: Array, channel: Array, rows: Array) -> None:
            compute.ablate_channels(activations, batch_index, channel, rows, self._threads)

        for batch_index, channel, logits in self._run(asked, changed, fill):
            answers[batch_index, channel] = asked.reader.read(logits, batch_index)
        return answers

    def with_boxes(
        self, asked: Asked, boxes: Boxes, *, delete: bool, keep: bool
    ) -> tuple[Array | None, Array | None]:
        activations = asked.activations
        compute = operations(activations)
        listed, count = like(boxes, activations), len(boxes)
        changed = pairs_where(len(activations), count, activations, lambda: occupied(activations, boxes))
        deleted = repeated(asked.scores[:, None], count, axis=1) if delete else None
        kept = repeated(self.empty(asked)[:, None], count, axis=1) if keep else None
        for answers, keeping in ((deleted, False), (kept, True)):
            if answers is None:
                continue

            def fill(batch_index: Array, box: Array, rows: Array, keeping: bool = keeping) -> None:
                compute.ablate_boxes(
                    activations, batch_index, listed[box], rows, keep=keeping, threads=self._threads
                )

            for batch_index, box, logits in self._run(asked, changed, fill):
                answers[batch_index, box] = asked.reader.read(logits, batch_index)
        return deleted, kept

    def empty(self, asked: Asked) -> Array:
        activations = asked.activations
        xp, count = library(activations), len(activations)
        images = numbered(count, activations)
        if self._beside:
            return asked.reader.read(self._counted(asked)(xp.zeros_like(activations), images), images)
        key = tuple(activations.shape[1:])
        empty = self._empty.get(key, lambda: self._runner(xp.zeros_like(activations[:1]))[0])
        return asked.reader.read(repeated(empty, count, axis=0), images)

    def show(self, activations: Array, beside: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Logits (N, C) of activations, and whatever else the head's graph shows of them, by name.

        Args:
            activations: (N, K, h, w).
            beside: The tensors that go around the cut, by name; others are left out.
        """
        feeds = {name: beside[name] for name in self._beside}
        logits, *further = self._runner(activations, None, feeds)
        return logits, dict(zip(self._runner.outputs[1:], further, strict=True))

    def gradients(self, asked: Asked) -> Iterator[Array]:
        return self._adjoint.gradients(asked)

    def gradient_passes(self) -> tuple[int, str]:
        return 1, "the head's adjoint, forth and back"

    def class_maps(self, asked: Asked) -> Array | None:
        return None

    def describe(self) -> str:
        return f"generic: every alteration is run through the head, in batches ({self._reason})"

    def channel_passes(self, channels: int) -> tuple[int, str]:
        return channels, "one a channel that is not all zero, through the head alone"

    def box_passes(self, boxes: int) -> tuple[int, str]:
        return 2 * boxes, "one a distinct box and perspective, through the head alone"

    def _run(
        self, asked: Asked, pairs: tuple[Array, Array], fill: Callable[[Array, Array, Array], None]
    ) -> Iterator[tuple[Array, Array, Array]]:
        """Runs altered activations through the head; see `fill_and_run`."""
        shape, run = asked.activations.shape[1:], self._counted(asked)
        return fill_and_run(pairs, shape, self._batch_size, fill, run, self._runner.rows)

    def _counted(self, asked: Asked) -> Callable[[Array, Array], Array]:
        def run(rows: Array, batch_index: Array) -> Array:
            asked.passes.head += len(rows)
            feeds = {name: asked.extras[name][batch_index] for name in self._beside}
            return self._runner(rows, None, feeds)[0]

        return run


def occupied(activations: Array, boxes: Boxes) -> Array:
    """(N, P): whether a box of cells holds anything but zeros."""
    xp = library(activations)
    cells = xp.any(activations != 0, axis=1)
    found = [xp.any(cells[:, r0:r1, c0:c1], axis=(1, 2)) for r0, c0, r1, c1 in boxes.tolist()]
    return xp.stack(found, axis=1)
