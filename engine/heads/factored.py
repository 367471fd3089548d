"""A head of the form ψ ∘ P ∘ φ: most alterations are answered by addition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from camrt.engine.backends import Runner
from camrt.engine.heads.adjoint import HeadAdjoint
from camrt.engine.heads.base import Asked, Head, fill_and_run, pairs_where
from camrt.engine.heads.contributions import Contributions, interior
from camrt.engine.heads.dense_start import DenseStart
from camrt.engine.heads.generic import GenericHead
from camrt.export.cutting import CELLS, PHI
from camrt.kernels.box_probabilities import box_probabilities_pair
from camrt.kernels.box_sums import box_sums

__all__ = ["FactoredHead"]

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]

# Working memory of a block of pictures' contributions, in bytes: large enough to read flattened weights
# seldom, small enough to stay a fraction of what a forward pass holds.
BLOCK_BYTES = 64 << 20


class FactoredHead(Head):
    """Answers by contributions of cells and channels; only what follows ψ's first layer is ever run.

    Args:
        contributions: The first layer.
        rest: Graph z (N, F) -> logits; None when ψ is affine and z is the logits.
        channels: How channel ablations are answered when φ mixes channels; None when it does not.
        adjoint: The way back to the first layer's answer where φ is the identity, else to the activation.
        batch_size: Vectors behind the first layer a batch.
    """

    def __init__(
        self,
        contributions: Contributions,
        rest: Runner | None,
        channels: DenseStart | GenericHead | None,
        adjoint: HeadAdjoint,
        batch_size: int,
    ) -> None:
        self._contributions = contributions
        self._rest = rest
        self._channels = channels
        self._adjoint = adjoint
        self._batch_size = batch_size
        self._empty: dict[tuple[int, ...], Array] = {}
        shape = "pooled" if contributions.pooled else "flattened"
        self.kind = f"{shape}-{'linear' if rest is None else 'network'}"

    # ---------------------------------------------------------------- boxes

    def with_boxes(
        self, asked: Asked, boxes: Indices, *, delete: bool, keep: bool
    ) -> tuple[Array | None, Array | None]:
        if self._rest is None and not asked.reader.needs_softmax:
            return self._linear_boxes(asked, boxes, delete, keep)
        count, targets = len(asked.activations), asked.reader.targets.shape[1]
        deleted = np.empty((count, len(boxes), targets), np.float32) if delete else None
        kept = np.empty((count, len(boxes), targets), np.float32) if keep else None
        height, width = asked.activations.shape[2:]
        rows = height * width if self._rest is None else height * width + len(boxes)
        for block, difference in self._blocks(asked, rows):
            cells = (
                asked.extras[CELLS][block]
                if CELLS in asked.extras
                else self._contributions.of_cells(difference, (height, width))
            )
            pair = (
                self._softmax_boxes(asked, block, cells, boxes)
                if self._rest is None
                else self._network_boxes(asked, block, cells, boxes, delete, keep)
            )
            for answers, found in zip((deleted, kept), pair, strict=True):
                if answers is not None and found is not None:
                    answers[block] = found
        return deleted, kept

    def _linear_boxes(
        self, asked: Asked, boxes: Indices, delete: bool, keep: bool
    ) -> tuple[Array | None, Array | None]:
        targets = asked.reader.targets
        shape = asked.activations.shape
        if CELLS in asked.extras:
            cells = np.take_along_axis(asked.extras[CELLS], targets[:, None, None, :], axis=3)
        else:
            difference = self._contributions.difference(asked)
            cells = self._contributions.of_targets(difference, (shape[2], shape[3]), targets)
        sums = box_sums(cells, boxes, threads=self._contributions.threads)
        full = np.take_along_axis(asked.logits, targets, axis=1)[:, None]
        empty = self._contributions.empty(shape[1:])[targets][:, None]
        finish = asked.reader.finish
        return finish(full - sums) if delete else None, finish(empty + sums) if keep else None

    def _softmax_boxes(self, asked: Asked, block: slice, cells: Array, boxes: Indices) -> tuple[Array, Array]:
        empty = self._contributions.empty(asked.activations.shape[1:])
        nothing = np.repeat(empty[None], len(cells), axis=0)
        targets, threads = asked.reader.targets[block], self._contributions.threads
        return box_probabilities_pair(cells, asked.logits[block], nothing, boxes, targets, threads=threads)

    def _network_boxes(
        self, asked: Asked, block: slice, cells: Array, boxes: Indices, delete: bool, keep: bool
    ) -> tuple[Array | None, Array | None]:
        sums = box_sums(cells, boxes, threads=self._contributions.threads)
        empty = self._contributions.empty(asked.activations.shape[1:])
        first = block.start
        full = empty + cells.sum(axis=(1, 2), dtype=np.float64).astype(np.float32)
        changed = pairs_where((sums != 0).any(axis=2))
        result: list[Array | None] = []
        for wanted, base, sign, unchanged in (
            (delete, full, np.float32(-1), asked.scores[block]),
            (keep, np.repeat(empty[None], len(cells), axis=0), np.float32(1), self.empty(asked)[block]),
        ):
            if not wanted:
                result.append(None)
                continue
            answers = np.repeat(unchanged[:, None], len(boxes), axis=1)

            def fill(image: Indices, box: Indices, rows: Array, base: Array = base, sign: Any = sign) -> None:
                np.multiply(sums[image, box], sign, out=rows)
                rows += base[image]

            for image, box, logits in fill_and_run(
                changed, (sums.shape[2],), self._batch_size, fill, self._counted(asked)
            ):
                answers[image, box] = asked.reader.read(logits, image + first)
            result.append(answers)
        return result[0], result[1]

    # ---------------------------------------------------------------- channels

    def without_channels(self, asked: Asked) -> Array:
        if self._channels is not None:
            return self._channels.without_channels(asked)
        if self._contributions.pooled:
            return self._pooled_channels(asked)
        answers = np.repeat(asked.scores[:, None], asked.activations.shape[1], axis=1)
        for block, difference in self._blocks(asked, asked.activations.shape[1]):
            products = self._contributions.of_channels(difference)
            self._answer_channels(asked, block, products, answers)
        return answers

    def _pooled_channels(self, asked: Asked) -> Array:
        """Channel k takes W[:, k] · (its pooled φ(A) − φ(0)) out of the first layer's answer."""
        factors = self._contributions.factors
        height, width = asked.activations.shape[2:]
        difference = self._contributions.difference(asked)
        pooled = self._contributions.pooled_channels(difference, (height, width))
        count, channels = pooled.shape
        if self._rest is None and not asked.reader.needs_softmax:
            targets = asked.reader.targets
            full = np.take_along_axis(asked.logits, targets, axis=1)
            if factors.weight is None:
                rows = np.zeros((count, targets.shape[1], channels), np.float32)
                np.put_along_axis(rows, targets[:, :, None], 1.0, axis=2)
            else:
                rows = factors.weight[targets]
            without = full[:, None] - (rows * pooled[:, None]).transpose(0, 2, 1)
            return asked.reader.finish(without)
        columns = np.eye(channels, dtype=np.float32) if factors.weight is None else factors.weight.T
        empty = self._contributions.empty(asked.activations.shape[1:])
        everything = pooled @ columns
        full = asked.logits if self._rest is None else empty + everything
        answers = np.repeat(asked.scores[:, None], channels, axis=1)

        def fill(image: Indices, channel: Indices, rows: Array) -> None:
            np.multiply(columns[channel], pooled[image, channel][:, None], out=rows)
            np.subtract(full[image], rows, out=rows)

        for image, channel, logits in fill_and_run(
            pairs_where(pooled), (columns.shape[1],), self._batch_size, fill, self._counted(asked)
        ):
            answers[image, channel] = asked.reader.read(logits, image)
        return answers

    def _answer_channels(self, asked: Asked, block: slice, products: Array, answers: Array) -> None:
        empty = self._contributions.empty(asked.activations.shape[1:])
        first = block.start
        if self._rest is None:
            full = asked.logits[block]
        else:
            full = empty + products.sum(axis=1, dtype=np.float64).astype(np.float32)

        def fill(image: Indices, channel: Indices, rows: Array) -> None:
            np.subtract(full[image], products[image, channel], out=rows)

        for image, channel, logits in fill_and_run(
            pairs_where((products != 0).any(axis=2)),
            (products.shape[2],),
            self._batch_size,
            fill,
            self._counted(asked),
        ):
            answers[image + first, channel] = asked.reader.read(logits, image + first)

    # ---------------------------------------------------------------- gradients

    @property
    def _first_layer_is_known(self) -> bool:
        """Whether ψ's first layer reads the activation itself, so that its weight is the last step back."""
        return self._contributions.factors.phi == "identity"

    def gradients(self, asked: Asked) -> Iterator[Array]:
        if not self._first_layer_is_known:
            yield from self._adjoint.gradients(asked)
        elif self._rest is not None:
            for rows in self._adjoint.gradients(asked):
                yield self._before_first_layer(rows.reshape(len(rows), -1), asked)
        else:
            weight = self._contributions.factors.weight
            images = np.arange(len(asked.activations))
            for target in range(asked.reader.targets.shape[1]):
                if asked.reader.kind == "logit" and weight is not None:
                    chosen = weight[asked.reader.targets[:, target]]
                    yield self._over_cells(chosen.reshape(len(images), -1), asked)
                else:
                    rows = asked.reader.weighting(asked.logits, images, target)
                    yield self._before_first_layer(rows, asked)

    def _before_first_layer(self, rows: Array, asked: Asked) -> Array:
        """The gradient at A, from that at the first layer's answer: ∂z/∂A is W."""
        weight = self._contributions.factors.weight
        return self._over_cells(rows if weight is None else rows @ weight.reshape(len(weight), -1), asked)

    def _over_cells(self, rows: Array, asked: Asked) -> Array:
        """The gradient at A, from that at P(A): the same in every cell, or a flattened map's own."""
        factors, shape = self._contributions.factors, asked.activations.shape
        if factors.reduction == "flatten":
            return rows.reshape(shape)
        scaled = rows * factors.scale((shape[2], shape[3]))
        return np.broadcast_to(scaled[:, :, None, None], shape)

    def gradient_passes(self) -> tuple[int, str]:
        if not self._first_layer_is_known:
            return 1, "the head's adjoint, forth and back"
        if self._rest is not None:
            return 1, "what follows the head's first layer, forth and back"
        return 0, "the head is one linear layer, whose gradient is its weight"

    # ---------------------------------------------------------------- the rest

    def empty(self, asked: Asked) -> Array:
        shape = asked.activations.shape[1:]
        if shape not in self._empty:
            first = self._contributions.empty(shape)[None]
            self._empty[shape] = first if self._rest is None else self._rest(first)[0]
        count = len(asked.activations)
        return asked.reader.read(np.repeat(self._empty[shape], count, axis=0), np.arange(count))

    @property
    def has_class_maps(self) -> bool:
        return self._rest is None and self._contributions.pooled

    def class_maps(self, asked: Asked) -> Array | None:
        if not self.has_class_maps:
            return None
        factors = self._contributions.factors
        height, width = asked.activations.shape[2:]
        source = asked.activations if factors.phi_model is None else asked.extras[PHI]
        inner = interior(source, (height, width))
        targets = asked.reader.targets
        maps = self._contributions.mixed(inner.reshape(*inner.shape[:2], -1), targets)
        bias = factors.bias
        if factors.reduction == "sum":
            bias = bias / np.float32(factors.cells((height, width)))
        if factors.cell_bias is not None:
            bias = bias + factors.cell_bias
        shifted: Array = maps + bias[targets][:, :, None]
        return shifted.reshape(*maps.shape[:2], height, width)

    def _blocks(self, asked: Asked, rows: int) -> Iterator[tuple[slice, Array]]:
        """Blocks of pictures whose `rows` vectors of F features each fit the working memory."""
        difference = self._contributions.difference(asked)
        size = max(1, BLOCK_BYTES // (4 * rows * self._contributions.features))
        for start in range(0, len(difference), size):
            block = slice(start, min(start + size, len(difference)))
            yield block, difference[block]

    def _counted(self, asked: Asked) -> Any:
        rest = self._rest

        def run(rows: Array, image: Indices) -> Array:
            if rest is None:
                return rows
            asked.passes.head += len(rows)
            return rest(rows)[0]

        return run

    # ---------------------------------------------------------------- description

    def describe(self) -> str:
        factors = self._contributions.factors
        phi = {
            "identity": "the identity (or folded into ψ)",
            "separable": "channel by channel",
            "dense": "mixes channels",
        }[factors.phi]
        network = f"a network behind its first layer of {len(factors.bias)} units"
        psi = "affine" if self._rest is None else network
        return f"{self.kind}: ψ ∘ P ∘ φ with φ {phi}, P a {factors.reduction}, ψ {psi}"

    def channel_passes(self, channels: int) -> tuple[int, str]:
        if self._channels is not None:
            return self._channels.channel_passes(channels)
        if self._rest is None:
            return 0, "the head is linear behind φ: algebra"
        return channels, "one a channel that is not all zero, through what follows the head's first layer"

    def box_passes(self, boxes: int) -> tuple[int, str]:
        if self._rest is None:
            return 0, "every box is a sum of its cells' contributions"
        return (
            2 * boxes,
            "one a distinct box and perspective, through what follows the head's first layer",
        )
