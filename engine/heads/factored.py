"""A head of the form ψ ∘ P ∘ φ: most alterations are answered by addition."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from camrt.engine.arrays import (
    all_index_pairs,
    arange_like,
    concat,
    constant_like,
    library,
    repeat,
    reserve_for,
    to_float32,
    zeros,
)
from camrt.engine.heads.adjoint import HeadAdjoint
from camrt.engine.heads.base import Boxes, Head, Masks, QueryContext, find_changed_pairs, run_altered_rows
from camrt.engine.heads.class_rows import ClassRows
from camrt.engine.heads.contributions import Contributions, interior
from camrt.engine.heads.dense_start import DensePhiAblation
from camrt.engine.heads.generic import GenericHead
from camrt.engine.heads.last_linear import ScoreRunner
from camrt.export.heads.cut import FIRST_LAYER, PHI
from camrt.kernels.box_probabilities import box_probabilities, box_probabilities_pair
from camrt.kernels.box_sums import box_sums
from camrt.kernels.caches import ByteCache
from camrt.kernels.dispatch import host_readable
from camrt.kernels.first_layer_difference import first_layer_boxes, first_layer_channels
from camrt.kernels.partial_products import matmul_packed
from camrt.kernels.rank_one import rank_one

__all__ = ["FactoredHead"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`

# Working memory of a block of images' contributions, in bytes: large enough to read flattened weights
# seldom, small enough to stay a fraction of what a forward pass holds.
BLOCK_BYTES = 64 << 20


class FactoredHead(Head):
    """Answers by contributions of cells and channels; only what follows ψ's first layer is ever run.

    Args:
        contributions: The first layer.
        rest: z (N, F) -> logits; None when ψ is affine and z is the logits.
        channels: How channel ablations are answered when φ mixes channels; None when it does not.
        adjoint: The way back to the first layer's answer where φ is the identity, else to the activation.
        batch_size: Vectors behind the first layer a batch.
        class_rows: How logits are answered where each pools a channel of its own; None where they do not.
        masked: What answers about masks of cells where φ is not the identity.
    """

    def __init__(
        self,
        contributions: Contributions,
        rest: ScoreRunner | None,
        channels: DensePhiAblation | GenericHead | None,
        adjoint: HeadAdjoint,
        batch_size: int,
        class_rows: ClassRows | None = None,
        masked: GenericHead | None = None,
    ) -> None:
        self._contributions = contributions
        self._rest = rest
        self._channels = channels
        self._adjoint = adjoint
        self._batch_size = batch_size
        self._class_rows = class_rows
        self._masked = masked
        self._empty: ByteCache[Array] = ByteCache()
        shape = "pooled" if contributions.is_pooled else "flattened"
        self.kind = f"{shape}-{'linear' if rest is None else 'network'}"

    def extras_of(self, activations: Array) -> dict[str, Array]:
        found = self._contributions.phi(activations)
        return {} if found is None else {PHI: found}

    # ---------------------------------------------------------------- boxes

    def scores_with_boxes(
        self, context: QueryContext, boxes: Boxes, *, delete: bool, keep: bool
    ) -> tuple[Array | None, Array | None]:
        if self._rest is None and not context.reader.needs_softmax:
            return self._linear_boxes(context, boxes, delete, keep)
        if self._rest is None and self._contributions.has_fused_box_scores(context.activations):
            return self._contributions.box_scores(context, boxes)
        deleted: list[Array] = []
        kept: list[Array] = []
        height, width = context.activations.shape[2:]
        rows = height * width if self._rest is None else height * width + len(boxes)
        for block, difference in self._blocks(context, rows):
            cells = self._contributions.cell_contributions(difference, (height, width))
            pair = (
                self._softmax_boxes(context, block, cells, boxes, keep)
                if self._rest is None
                else self._network_boxes(context, block, cells, boxes, delete, keep)
            )
            for parts, answers in zip((deleted, kept), pair, strict=True):
                if answers is not None:
                    parts.append(answers)
        return concat(deleted) if delete else None, concat(kept) if keep else None

    def _linear_boxes(
        self, context: QueryContext, boxes: Boxes, delete: bool, keep: bool
    ) -> tuple[Array | None, Array | None]:
        targets = context.reader.targets
        shape = context.activations.shape
        difference = self._contributions.phi_difference(context)
        cells = self._contributions.target_contributions(difference, (shape[2], shape[3]), targets)
        sums = self._box_sums(cells, boxes)
        full = library(sums).take_along_axis(context.logits, targets, axis=1)[:, None]
        empty = self._contributions.first_layer_of_zero(shape[1:])[targets][:, None]
        finish = context.reader.scores_of_target_logits
        return finish(full - sums) if delete else None, finish(empty + sums) if keep else None

    def _softmax_boxes(
        self, context: QueryContext, block: slice, cells: Array, boxes: Boxes, keep: bool
    ) -> tuple[Array, Array | None]:
        logits, targets = context.logits[block], context.reader.targets[block]
        threads = self._contributions.threads
        reserve_for((1 + keep, len(cells), len(boxes), targets.shape[1]), cells, "boxes' scores")
        if not keep:
            return box_probabilities(cells, logits, boxes, targets, sign=-1, threads=threads), None
        empty = self._contributions.first_layer_of_zero(context.activations.shape[1:])
        empty_logits = repeat(empty[None], len(cells), axis=0)
        return box_probabilities_pair(cells, logits, empty_logits, boxes, targets, threads=threads)

    def _box_sums(self, cells: Array, boxes: Boxes) -> Array:
        """Sums (N, P, F) of cells (N, h, w, F) over boxes."""
        reserve_for((len(cells), len(boxes), cells.shape[3]), cells, "sums over boxes", itemsize=4)
        return box_sums(cells, boxes, threads=self._contributions.threads)

    def _network_boxes(
        self, context: QueryContext, block: slice, cells: Array, boxes: Boxes, delete: bool, keep: bool
    ) -> tuple[Array | None, Array | None]:
        xp = library(cells)
        sums = self._box_sums(cells, boxes) if host_readable(cells) else None
        listed = constant_like(boxes, cells)
        empty = self._contributions.first_layer_of_zero(context.activations.shape[1:])
        first, features = block.start, cells.shape[3]
        full = self._known_answer(context, block)
        if full is None:
            full = empty + to_float32(xp.sum(cells, axis=(1, 2), dtype=xp.float64))
        changed = find_changed_pairs(len(cells), len(boxes), cells, lambda: xp.any(sums != 0, axis=2))
        result: list[Array | None] = []
        for wanted, start, keeping, unchanged in (
            (delete, full, False, context.scores[block]),
            (
                keep,
                repeat(empty[None], len(cells), axis=0),
                True,
                self.scores_of_zero_activation(context)[block],
            ),
        ):
            if not wanted:
                result.append(None)
                continue
            answers = repeat(unchanged[:, None], len(boxes), axis=1)

            if sums is not None and self._uses_hidden_scores(context, cells):
                batch_index, box = changed
                answers[batch_index, box] = self._hidden_scores(
                    context,
                    block,
                    start,
                    sums.reshape(-1, features),
                    batch_index,
                    batch_index * len(boxes) + box,
                    library(sums).full(len(box), -1.0 if keeping else 1.0, dtype=sums.dtype),
                )
                result.append(answers)
                continue

            def fill(
                batch_index: Array, box: Array, rows: Array, start: Array = start, keeping: bool = keeping
            ) -> None:
                if sums is None:
                    first_layer_boxes(start, cells, batch_index, listed[box], rows, keep=keeping)
                elif keeping:
                    rows[...] = start[batch_index] + sums[batch_index, box]
                else:
                    rows[...] = start[batch_index] - sums[batch_index, box]

            for batch_index, box, scores in self._run(context, first, changed, features, fill):
                answers[batch_index, box] = scores
            result.append(answers)
        return result[0], result[1]

    def scores_with_masks(self, context: QueryContext, masks: Masks) -> Array:
        if self._masked is not None:
            return self._masked.scores_with_masks(context, masks)
        activations, targets = context.activations, context.reader.targets
        height, width = activations.shape[2:]
        listed = constant_like(masks.reshape(len(masks), -1), activations)
        empty = self._contributions.first_layer_of_zero(activations.shape[1:])
        if self._rest is None and context.reader.reads_own_logit:
            difference = self._contributions.phi_difference(context)
            own = self._contributions.target_contributions(difference, (height, width), targets)
            sums = listed @ own.reshape(len(own), height * width, -1)
            return context.reader.scores_of_target_logits(empty[targets][:, None] + sums)
        answers = zeros((len(activations), len(masks), targets.shape[1]), activations)
        for block, difference in self._blocks(context, height * width + len(masks)):
            cells = self._contributions.cell_contributions(difference, (height, width))
            sums = listed @ cells.reshape(len(cells), height * width, -1)

            def fill(batch_index: Array, mask: Array, rows: Array, sums: Array = sums) -> None:
                rows[...] = empty + sums[batch_index, mask]

            every = all_index_pairs(len(cells), len(masks), cells)
            for batch_index, mask, scores in self._run(context, block.start, every, len(empty), fill):
                answers[batch_index + block.start, mask] = scores
        return answers

    def mask_passes(self, masks: int) -> tuple[int, str]:
        if self._masked is not None:
            return self._masked.mask_passes(masks)
        if self._rest is None:
            return 0, "every mask is a weighted sum of cells' contributions"
        return masks, "one a mask, through what follows the head's first layer"

    # ---------------------------------------------------------------- channels

    def scores_without_channels(self, context: QueryContext) -> Array:
        if self._class_rows is not None and not context.reader.needs_softmax:
            return self._class_rows.scores_without_channels(context)
        if self._channels is not None:
            return self._channels.scores_without_channels(context)
        if self._contributions.is_pooled:
            return self._pooled_channels(context)
        answers = repeat(context.scores[:, None], context.activations.shape[1], axis=1)
        for block, difference in self._blocks(context, context.activations.shape[1]):
            products = self._contributions.channel_contributions(difference)
            self._answer_channels(context, block, products, answers)
        return answers

    def _pooled_channels(self, context: QueryContext) -> Array:
        """Channel k takes W[:, k] · (its pooled φ(A) − φ(0)) out of the first layer's answer."""
        factors = self._contributions.factors
        height, width = context.activations.shape[2:]
        difference = self._contributions.phi_difference(context)
        pooled = self._contributions.pooled_difference(difference, (height, width))
        channels = pooled.shape[1]
        xp = library(pooled)
        if self._rest is None and not context.reader.needs_softmax:
            targets = context.reader.targets
            full = xp.take_along_axis(context.logits, targets, axis=1)
            if factors.weight is None:
                own = arange_like(channels, pooled)[None, None] == targets[:, :, None]
                rows = xp.astype(own, pooled.dtype)
            else:
                rows = factors.weight[targets]
            without = full[:, None] - xp.permute_dims(rows * pooled[:, None], (0, 2, 1))
            return context.reader.scores_of_target_logits(without)
        columns = self._contributions.columns
        empty = self._contributions.first_layer_of_zero(context.activations.shape[1:])
        full = context.logits if self._rest is None else self._known_answer(context, slice(None))
        if full is None:
            full = empty + pooled @ columns
        answers = repeat(context.scores[:, None], channels, axis=1)

        def fill(batch_index: Array, channel: Array, rows: Array) -> None:
            rank_one(
                full[:, :, None],
                columns,
                pooled[:, :, None],
                batch_index,
                channel,
                rows[:, :, None],
                threads=self._contributions.threads,
            )

        changed = find_changed_pairs(len(pooled), channels, pooled, lambda: pooled)
        if self._uses_hidden_scores(context, pooled):
            batch_index, channel = changed
            every, taken = slice(0, len(pooled)), pooled[batch_index, channel]
            answers[batch_index, channel] = self._hidden_scores(
                context, every, full, columns, batch_index, channel, taken
            )
            return answers
        for batch_index, channel, scores in self._run(context, 0, changed, columns.shape[1], fill):
            answers[batch_index, channel] = scores
        return answers

    def _answer_channels(self, context: QueryContext, block: slice, products: Array, answers: Array) -> None:
        empty = self._contributions.first_layer_of_zero(context.activations.shape[1:])
        first = block.start
        xp = library(products)
        full = context.logits[block] if self._rest is None else self._known_answer(context, block)
        if full is None:
            full = empty + to_float32(xp.sum(products, axis=1, dtype=xp.float64))
        count, channels, features = products.shape
        changed = find_changed_pairs(count, channels, products, lambda: xp.any(products != 0, axis=2))

        if self._uses_hidden_scores(context, products):
            batch_index, channel = changed
            answers[batch_index + first, channel] = self._hidden_scores(
                context,
                block,
                full,
                products.reshape(-1, features),
                batch_index,
                batch_index * channels + channel,
                xp.ones(len(channel), dtype=products.dtype),
            )
            return

        def fill(batch_index: Array, channel: Array, rows: Array) -> None:
            first_layer_channels(full, products, batch_index, channel, rows)

        for batch_index, channel, scores in self._run(context, first, changed, features, fill):
            answers[batch_index + first, channel] = scores

    def _known_answer(self, context: QueryContext, block: slice) -> Array | None:
        """The first layer's answer (n, F) to unaltered images, where the trunk pass gave it.

        Not of a layer that is the identity: what is taken out of a sum of the same numbers leaves exactly
        nothing, which the logarithm of a probability behind it tells from a last bit.
        """
        found = context.extras.get(FIRST_LAYER)
        identity = self._contributions.factors.weight is None
        return None if found is None or identity else found[block].reshape(-1, self._contributions.features)

    def _uses_hidden_scores(self, context: QueryContext, array: Array) -> bool:
        """Whether a score is one logit's, and an activation is all between the first layer and the last."""
        rest = self._rest
        if rest is None or context.reader.needs_softmax or not host_readable(array):
            return False
        return rest.function is not None

    def _hidden_scores(
        self,
        context: QueryContext,
        block: slice,
        base: Array,
        weight: Array,
        batch_index: Array,
        row: Array,
        factor: Array,
    ) -> Array:
        """Scores (B, T) of first layers' answers less multiples of rows, see `ScoreRunner.altered_scores`."""
        assert self._rest is not None
        context.passes.head += len(row)
        threads = self._contributions.threads
        return self._rest.altered_scores(
            base, weight, factor, batch_index, row, context.reader, block, threads
        )

    # ---------------------------------------------------------------- gradients

    @property
    def first_layer_is_known(self) -> bool:
        """Whether ψ's first layer reads the activation itself, so that its weight is the last step back."""
        return self._contributions.factors.phi == "identity"

    @property
    def has_own_gradient(self) -> bool:
        """Whether some gradient is not the adjoint graph's from the activation on."""
        return self.first_layer_is_known or self._class_rows is not None

    def gradients(self, context: QueryContext) -> Iterator[Array]:
        if self._class_rows is not None and context.reader.reads_own_logit:
            for target in range(context.reader.targets.shape[1]):
                yield self._class_rows.gradient(context, target)
        elif not self.first_layer_is_known:
            yield from self._adjoint.gradients(context)
        elif self._rest is not None:
            for rows in self._adjoint.gradients(context):
                yield self._before_first_layer(rows.reshape(len(rows), -1), context)
        else:
            weight = self._contributions.factors.weight
            batch_index = arange_like(len(context.activations), context.activations)
            for target in range(context.reader.targets.shape[1]):
                if context.reader.kind == "logit" and context.reader.reads_own_logit and weight is not None:
                    chosen = weight[context.reader.targets[:, target]]
                    yield self._over_cells(chosen.reshape(len(batch_index), -1), context)
                else:
                    rows = context.reader.weighting(context.logits, batch_index, target)
                    yield self._before_first_layer(rows, context)

    def _before_first_layer(self, rows: Array, context: QueryContext) -> Array:
        """The gradient at A, from that at the first layer's answer: ∂z/∂A is W."""
        weight = self._contributions.factors.weight
        if weight is not None:
            flat = weight.reshape(*weight.shape[:2], -1)
            rows = matmul_packed(rows, flat)
        return self._over_cells(rows, context)

    def _over_cells(self, rows: Array, context: QueryContext) -> Array:
        """The gradient at A, from that at P(A): the same in every cell, or a flattened map's own."""
        factors, shape = self._contributions.factors, context.activations.shape
        if factors.reduction == "flatten":
            return rows.reshape(shape)
        scaled = rows.reshape(*shape[:2], 1, 1) * factors.scale((shape[2], shape[3]))
        return library(scaled).broadcast_to(scaled, shape)

    def gradient_passes(self) -> tuple[int, str]:
        if not self.first_layer_is_known:
            return 1, "the head's adjoint, forth and back"
        if self._rest is not None:
            return 1, "what follows the head's first layer, forth and back"
        return 0, "the head is one linear layer, whose gradient is its weight"

    # ---------------------------------------------------------------- the rest

    def scores_of_zero_activation(self, context: QueryContext) -> Array:
        shape = context.activations.shape[1:]

        def find() -> Array:
            first = self._contributions.first_layer_of_zero(shape)[None]
            return first if self._rest is None else self._rest.run(first)[0]

        count, empty = len(context.activations), self._empty.get(shape, find)
        return context.reader.read(repeat(empty, count, axis=0), arange_like(count, empty))

    def row_size(self, shape: tuple[int, int, int]) -> int:
        return self._contributions.features if self._channels is None else super().row_size(shape)

    @property
    def answers_logits_apart(self) -> bool:
        return self._class_rows is not None or (self._rest is not None and self._rest.last is not None)

    @property
    def has_class_maps(self) -> bool:
        return self._rest is None and self._contributions.is_pooled

    def class_maps(self, context: QueryContext) -> Array | None:
        if not self.has_class_maps:
            return None
        factors = self._contributions.factors
        height, width = context.activations.shape[2:]
        source = context.activations if factors.phi_model is None else context.extras[PHI]
        inner = interior(source, (height, width))
        targets = context.reader.targets
        maps = self._contributions.apply_target_weights(inner.reshape(*inner.shape[:2], -1), targets)
        bias = factors.bias
        if factors.reduction == "sum":
            bias = bias / factors.cells((height, width))
        if factors.cell_bias is not None:
            bias = bias + factors.cell_bias
        shifted = maps + bias[targets][:, :, None]
        return shifted.reshape(*maps.shape[:2], height, width)

    def _blocks(self, context: QueryContext, rows: int) -> Iterator[tuple[slice, Array]]:
        """Blocks of images whose `rows` vectors of F features each fit the working memory."""
        difference = self._contributions.phi_difference(context)
        size = max(1, BLOCK_BYTES // (4 * rows * self._contributions.features))
        for start in range(0, len(difference), size):
            block = slice(start, min(start + size, len(difference)))
            yield block, difference[block]

    def _run(
        self,
        context: QueryContext,
        first: int,
        pairs: tuple[Array, Array],
        features: int,
        fill: Callable[[Array, Array, Array], None],
    ) -> Iterator[tuple[Array, Array, Array]]:
        """Runs first layers' altered answers through the rest, if there is any; see `run_altered_rows`.

        Image 0 of the pairs is number `first` of the context's.
        """
        rest, logits = self._rest, context.logits

        def run(rows: Array, batch_index: Array) -> Array:
            if rest is None:
                return context.reader.read(rows, batch_index + first)
            context.passes.head += len(rows)
            return rest.scores(rows, context.reader, batch_index + first)

        def plain(shape: tuple[int, ...]) -> Array:
            return zeros(shape, logits)

        rows = plain if rest is None else rest.allocate_rows
        return run_altered_rows(pairs, (features,), self._batch_size, fill, run, rows)

    # ---------------------------------------------------------------- description

    def describe(self) -> str:
        factors = self._contributions.factors
        phi = {
            "identity": "the identity (or folded into ψ)",
            "separable": "channel by channel",
            "dense": "one that mixes channels",
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
