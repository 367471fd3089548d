"""A head of any form: altered activations are batched through its graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from camrt.engine.backends import Runner
from camrt.engine.heads.adjoint import HeadAdjoint
from camrt.engine.heads.base import Asked, Head, fill_and_run, pairs_where
from camrt.kernels.ablate import ablate_boxes, ablate_channels

__all__ = ["GenericHead"]

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]


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
        self._empty: dict[tuple[int, ...], Array] = {}

    def without_channels(self, asked: Asked) -> Array:
        activations = asked.activations
        answers = np.repeat(asked.scores[:, None], activations.shape[1], axis=1)
        changed = pairs_where((activations != 0).any(axis=(2, 3)))

        def fill(image: Indices, channel: Indices, rows: Array) -> None:
            ablate_channels(activations, image, channel, rows, threads=self._threads)

        for image, channel, logits in fill_and_run(
            changed, activations.shape[1:], self._batch_size, fill, self._counted(asked)
        ):
            answers[image, channel] = asked.reader.read(logits, image)
        return answers

    def with_boxes(
        self, asked: Asked, boxes: Indices, *, delete: bool, keep: bool
    ) -> tuple[Array | None, Array | None]:
        activations = asked.activations
        occupied = (activations != 0).any(axis=1)
        filled = np.stack([occupied[:, r0:r1, c0:c1].any(axis=(1, 2)) for r0, c0, r1, c1 in boxes], axis=1)
        count = len(boxes)
        deleted = np.repeat(asked.scores[:, None], count, axis=1) if delete else None
        kept = np.repeat(self.empty(asked)[:, None], count, axis=1) if keep else None
        for answers, keeping in ((deleted, False), (kept, True)):
            if answers is None:
                continue

            def fill(image: Indices, box: Indices, rows: Array, keeping: bool = keeping) -> None:
                ablate_boxes(activations, image, boxes[box], rows, keep=keeping, threads=self._threads)

            for image, box, logits in fill_and_run(
                pairs_where(filled), activations.shape[1:], self._batch_size, fill, self._counted(asked)
            ):
                answers[image, box] = asked.reader.read(logits, image)
        return deleted, kept

    def empty(self, asked: Asked) -> Array:
        count, *shape = asked.activations.shape
        images = np.arange(count)
        if self._beside:
            return asked.reader.read(self._counted(asked)(np.zeros_like(asked.activations), images), images)
        key = tuple(shape)
        if key not in self._empty:
            self._empty[key] = self._runner(np.zeros((1, *shape), np.float32))[0]
        return asked.reader.read(np.repeat(self._empty[key], count, axis=0), images)

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

    def _counted(self, asked: Asked) -> Callable[[Array, Indices], Array]:
        def run(rows: Array, image: Indices) -> Array:
            asked.passes.head += len(rows)
            feeds = {name: asked.extras[name][image] for name in self._beside}
            return self._runner(rows, None, feeds)[0]

        return run
