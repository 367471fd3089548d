"""A head of any form: altered activations are batched through its graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from camrt.engine.arrays import all_index_pairs, arange_like, constant_like, library, repeat, zeros
from camrt.engine.heads.adjoint import HeadAdjoint
from camrt.engine.heads.base import (
    Boxes,
    Head,
    Masks,
    QueryContext,
    find_changed_pairs,
    find_nonzero_channels,
    run_altered_rows,
)
from camrt.engine.heads.last_linear import ScoreRunner
from camrt.kernels.ablate import ablate_boxes, ablate_channels
from camrt.kernels.caches import ByteCache

__all__ = ["GenericHead"]

Array = Any


class GenericHead(Head):
    """Runs the head's graph on batches of altered activations, across alterations and images.

    Alterations that change nothing (a channel or a box that is zero already) are answered without a pass.

    Args:
        runner: A (N, K, h, w) -> logits (N, C).
        adjoint: The way back through it.
        batch_size: Rows a batch.
        reason: Why the head could not be factored, in a sentence.
        threads: Threads of the native kernels; None lets them choose.
        extra_inputs: Names of the tensors that go around the cut, which the graph takes too: those of the
            image that the altered activation comes from.
    """

    kind = "generic"

    def __init__(
        self,
        runner: ScoreRunner,
        adjoint: HeadAdjoint,
        batch_size: int,
        reason: str,
        threads: int | None = None,
        extra_inputs: tuple[str, ...] = (),
    ) -> None:
        self._runner = runner
        self._adjoint = adjoint
        self._extra_inputs = extra_inputs
        self._batch_size = batch_size
        self._reason = reason
        self._threads = threads
        self._empty: ByteCache[Array] = ByteCache()

    def scores_without_channels(self, context: QueryContext) -> Array:
        activations = context.activations
        answers = repeat(context.scores[:, None], activations.shape[1], axis=1)
        changed = find_nonzero_channels(activations)

        def fill(batch_index: Array, channel: Array, rows: Array) -> None:
            ablate_channels(activations, batch_index, channel, rows, threads=self._threads)

        for batch_index, channel, scores in self._run(context, changed, fill):
            answers[batch_index, channel] = scores
        return answers

    def scores_with_boxes(
        self, context: QueryContext, boxes: Boxes, *, delete: bool, keep: bool
    ) -> tuple[Array | None, Array | None]:
        activations = context.activations
        listed, count = constant_like(boxes, activations), len(boxes)
        changed = find_changed_pairs(
            len(activations), count, activations, lambda: find_nonzero_boxes(activations, boxes)
        )
        deleted = repeat(context.scores[:, None], count, axis=1) if delete else None
        kept = repeat(self.scores_of_zero_activation(context)[:, None], count, axis=1) if keep else None
        for answers, keeping in ((deleted, False), (kept, True)):
            if answers is None:
                continue

            def fill(batch_index: Array, box: Array, rows: Array, keeping: bool = keeping) -> None:
                ablate_boxes(activations, batch_index, listed[box], rows, keep=keeping, threads=self._threads)

            for batch_index, box, scores in self._run(context, changed, fill):
                answers[batch_index, box] = scores
        return deleted, kept

    def scores_with_masks(self, context: QueryContext, masks: Masks) -> Array:
        activations, targets = context.activations, context.reader.targets
        listed = constant_like(masks, activations)
        answers = zeros((len(activations), len(masks), targets.shape[1]), activations)

        def fill(batch_index: Array, mask: Array, rows: Array) -> None:
            rows[...] = activations[batch_index] * listed[mask][:, None]

        every = all_index_pairs(len(activations), len(masks), activations)
        for batch_index, mask, scores in self._run(context, every, fill):
            answers[batch_index, mask] = scores
        return answers

    def mask_passes(self, masks: int) -> tuple[int, str]:
        return masks, "one a mask, through the head alone"

    def scores_of_zero_activation(self, context: QueryContext) -> Array:
        activations = context.activations
        xp, count = library(activations), len(activations)
        batch_index = arange_like(count, activations)
        if self._extra_inputs:
            return self._counted(context)(xp.zeros_like(activations), batch_index)
        key = tuple(activations.shape[1:])
        empty = self._empty.get(key, lambda: self._runner.run(xp.zeros_like(activations[:1]))[0])
        return context.reader.read(repeat(empty, count, axis=0), batch_index)

    def run_graph(
        self, activations: Array, extra_inputs: Mapping[str, Array]
    ) -> tuple[Array, dict[str, Array]]:
        """Logits (N, C) of activations, and whatever else the head's graph shows of them, by name.

        Args:
            activations: (N, K, h, w).
            extra_inputs: The tensors that go around the cut, by name; others are left out.
        """
        feeds = {name: extra_inputs[name] for name in self._extra_inputs}
        logits, *further = self._runner.run(activations, feeds)
        return logits, dict(zip(self._runner.outputs[1:], further, strict=True))

    def gradients(self, context: QueryContext) -> Iterator[Array]:
        return self._adjoint.gradients(context)

    def gradient_passes(self) -> tuple[int, str]:
        return 1, "the head's adjoint, forth and back"

    def class_maps(self, context: QueryContext) -> Array | None:
        return None

    def describe(self) -> str:
        return f"generic: every alteration is run through the head, in batches ({self._reason})"

    def channel_passes(self, channels: int) -> tuple[int, str]:
        return channels, "one a channel that is not all zero, through the head alone"

    def box_passes(self, boxes: int) -> tuple[int, str]:
        return 2 * boxes, "one a distinct box and perspective, through the head alone"

    def _run(
        self, context: QueryContext, pairs: tuple[Array, Array], fill: Callable[[Array, Array, Array], None]
    ) -> Iterator[tuple[Array, Array, Array]]:
        """Runs altered activations through the head; see `run_altered_rows`."""
        shape, run = context.activations.shape[1:], self._counted(context)
        return run_altered_rows(pairs, shape, self._batch_size, fill, run, self._runner.allocate_rows)

    def _counted(self, context: QueryContext) -> Callable[[Array, Array], Array]:
        def run(rows: Array, batch_index: Array) -> Array:
            context.passes.head += len(rows)
            feeds = {name: context.extras[name][batch_index] for name in self._extra_inputs}
            return self._runner.scores(rows, context.reader, batch_index, feeds)

        return run


def find_nonzero_boxes(activations: Array, boxes: Boxes) -> Array:
    """(N, P): whether a box of cells holds anything but zeros."""
    xp = library(activations)
    cells = xp.any(activations != 0, axis=1)
    found = [xp.any(cells[:, r0:r1, c0:c1], axis=(1, 2)) for r0, c0, r1, c1 in boxes.tolist()]
    return xp.stack(found, axis=1)
