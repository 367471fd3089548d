"""A head whose logit c pools channel c of φ(A), where that channel comes of one row of a linear layer.

    logit_c = bias_c + Σ_cells φ₁(weight_c · A_cell + b_c)

So it is in a network that ends in a 1×1 convolution to its classes, an activation, and global pooling: a
target's logit, and its gradient, need the target's row of that convolution and no other.
"""

from __future__ import annotations

from typing import Any

from camrt.engine.arrays import library, repeat, reserve_for, zeros
from camrt.engine.device import Device
from camrt.engine.heads.adjoint import own_weighting
from camrt.engine.heads.base import QueryContext, find_nonzero_channels, run_altered_rows
from camrt.engine.heads.contributions import border_size, interior
from camrt.engine.runtime import Runner
from camrt.export.adjoint import GRADIENT, WEIGHTING
from camrt.export.heads.factoring import AffineStart, Factors

__all__ = ["ClassRows", "pad_border"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


class ClassRows:
    """Answers about logits by the targets' rows alone.

    Args:
        factors: The head's factors.
        layer: The linear layer.
        each: Graph s (N, 1, h', w') -> φ₁(s) of the same shape.
        each_adjoint: Graph s, weighting of φ₁(s) -> gradient at s.
        device: Where the head's arrays lie.
    """

    def __init__(
        self,
        factors: Factors,
        layer: AffineStart,
        each: Runner,
        each_adjoint: Runner,
        device: Device,
    ) -> None:
        self._factors = factors
        self._weight = device.put(layer.weight)
        self._bias = device.put(layer.bias)
        self._each = each
        self._each_adjoint = each_adjoint

    def scores_without_channels(self, context: QueryContext) -> Array:
        """(N, K, T): the scores with channel k set to zero; no softmax is over them."""
        activations, targets = context.activations, context.reader.targets
        count, channels, height, width = activations.shape
        xp = library(activations)
        padded = self._pad(activations)
        size = padded.shape[2:]
        flat = padded.reshape(count, channels, -1)
        full = xp.take_along_axis(context.logits, targets, axis=1)
        answers = repeat(full[:, None], channels, axis=1)
        scale = self._factors.scale((height, width))
        changed = find_nonzero_channels(activations)
        context.passes.head += len(changed[0])  # once, for all targets
        for target in range(targets.shape[1]):
            chosen = targets[:, target]
            weight = self._weight[chosen]
            base = self._row(flat, chosen)
            total = xp.sum(self._each(base.reshape(count, 1, *size))[0], axis=(1, 2, 3))

            def fill(
                batch_index: Array, channel: Array, rows: Array, base: Array = base, weight: Array = weight
            ) -> None:
                taken = flat[batch_index, channel] * weight[batch_index, channel][:, None]
                rows[...] = (base[batch_index] - taken).reshape(rows.shape)

            def run(rows: Array, batch_index: Array, total: Array = total) -> Array:
                return xp.sum(self._each(rows)[0], axis=(1, 2, 3)) - total[batch_index]

            for batch_index, channel, change in run_altered_rows(
                changed, (1, *size), channels, fill, run, self._each.allocate_rows
            ):
                answers[batch_index, channel, target] += scale * change
        return context.reader.scores_of_target_logits(answers)

    def gradient(self, context: QueryContext, target: int) -> Array:
        """(N, K, h, w): the gradient of the score of target number `target`; no softmax is over it."""
        activations = context.activations
        count, channels, height, width = activations.shape
        padded = self._pad(activations)
        chosen = context.reader.targets[:, target]
        base = self._row(padded.reshape(count, channels, -1), chosen).reshape(count, 1, *padded.shape[2:])
        slope = own_weighting(context, target) * self._factors.scale((height, width))
        weighting = library(base).broadcast_to(slope[:, :, None, None], base.shape)
        context.passes.head_adjoint += count
        found = self._each_adjoint(base, [GRADIENT], {WEIGHTING: weighting})[0]
        return self._weight[chosen][:, :, None, None] * interior(found, (height, width))

    def _row(self, flat: Array, chosen: Array) -> Array:
        """The layer's answers (N, cells) to maps (N, K, cells), of one class an image."""
        reserve_for(flat.shape, flat, "rows of a head's layer", itemsize=4)
        return (self._weight[chosen][:, None] @ flat)[:, 0] + self._bias[chosen][:, None]

    def _pad(self, activations: Array) -> Array:
        height, width = activations.shape[2:]
        border = self._factors.border
        return pad_border(activations, (height + border[0], width + border[1]))


def pad_border(maps: Array, size: tuple[int, int]) -> Array:
    """Maps (N, K, h, w) with zeros around them, up to (h', w')."""
    count, channels, height, width = maps.shape
    if (height, width) == size:
        return maps
    top, left = border_size(size, (height, width))
    whole = zeros((count, channels, *size), maps)
    whole[:, :, top : top + height, left : left + width] = maps
    return whole
