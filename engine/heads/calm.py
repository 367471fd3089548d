"""CALM's head: p(y|x) is a ratio of two sums over cells, so that boxes are answered by sums of cells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from camrt.engine.arrays import clip_min, constant_like, library, reserve_for, to_float32, to_numpy, zeros
from camrt.engine.heads.base import Boxes, Head, Masks, QueryContext, sample_boxes
from camrt.engine.heads.generic import GenericHead
from camrt.engine.runtime import Runner
from camrt.kernels.box_sums import box_sums
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["CalmHead", "agrees_with_graph", "is_joint_distribution"]

Array = Any

# Largest difference of a probability between the sums of cells and the head itself.
PROBABILITY_TOLERANCE = 1e-4
# Likewise between what a model says are probabilities and what they add up to.
SUM_TOLERANCE = 1e-3


class CalmHead(Head):
    """p(y|x) = Σ_z g[y,z]·a[z] / Σ_z a[z], with g and a functions of the cell z alone.

    The head is run once an image, on the activation and a row of zero cells below it. What it gives,
    p(y,z|x) of that map, is g·a of every cell and of an empty one up to one common factor, which a ratio does
    not have:

        box deleted:    (Σ_z∉B g·a + |B|·g₀·a₀) / (Σ_z∉B a + |B|·a₀)
        only box kept:  (Σ_z∈B g·a + |¬B|·g₀·a₀) / (Σ_z∈B a + |¬B|·a₀)

    Channels and gradients are answered by the head's own graph.

    Args:
        generic: The head as a graph, with its adjoint.
        joint: Graph A (N, K, h, w) -> log p(y,z|x), (N, C, h, w), of any h and w.
        threads: Threads of the native kernels; None lets them choose.
    """

    kind = "calm"

    def __init__(self, generic: GenericHead, joint: Runner, threads: int | None = None) -> None:
        self.generic = generic
        self._joint = joint
        self._threads = threads

    def scores_with_boxes(
        self, context: QueryContext, boxes: Boxes, *, delete: bool, keep: bool
    ) -> tuple[Array | None, Array | None]:
        activations = context.activations
        count, channels, height, width = activations.shape
        xp = library(activations)
        below = zeros((count, channels, 1, width), activations)
        context.passes.head += count
        log_joint = self._joint(xp.concat([activations, below], axis=2))[0]
        joint = xp.exp(xp.astype(log_joint, xp.float64))
        # Of each cell what it gives the targets, and, last, all classes together: (N, h + 1, w, T + 1).
        chosen = xp.take_along_axis(joint, context.reader.targets[:, :, None, None], axis=1)
        shares = xp.concat([chosen, xp.sum(joint, axis=1, keepdims=True)], axis=1)
        shares = xp.permute_dims(shares, (0, 2, 3, 1))
        cells, empty = shares[:, :height], shares[:, height, 0]
        reserve_for((count, len(boxes), cells.shape[3]), cells, "sums over boxes")
        inside = box_sums(cells, boxes, threads=self._threads)
        area = constant_like((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), cells)[:, None]
        deleted = kept = None
        if delete:
            outside = clip_min(xp.sum(cells, axis=(1, 2))[:, None] - inside, 0.0)
            deleted = to_probabilities(outside + area * empty[:, None])
        if keep:
            kept = to_probabilities(inside + (height * width - area) * empty[:, None])
        return deleted, kept

    def scores_with_masks(self, context: QueryContext, masks: Masks) -> Array:
        return self.generic.scores_with_masks(context, masks)

    def mask_passes(self, masks: int) -> tuple[int, str]:
        return self.generic.mask_passes(masks)

    def scores_without_channels(self, context: QueryContext) -> Array:
        return self.generic.scores_without_channels(context)

    def scores_of_zero_activation(self, context: QueryContext) -> Array:
        return self.generic.scores_of_zero_activation(context)

    def gradients(self, context: QueryContext) -> Iterator[Array]:
        return self.generic.gradients(context)

    def gradient_passes(self) -> tuple[int, str]:
        return self.generic.gradient_passes()

    def class_maps(self, context: QueryContext) -> Array | None:
        return None

    def channel_passes(self, channels: int) -> tuple[int, str]:
        return self.generic.channel_passes(channels)

    def box_passes(self, boxes: int) -> tuple[int, str]:
        return 1, "p(y|x) is a ratio of sums over cells; one of the empty cell beside them"

    def describe(self) -> str:
        return (
            "CALM: p(y|x) is a ratio of sums over cells, so boxes are answered by sums; channels and "
            "gradients by the head's graph"
        )


def to_probabilities(sums: Array) -> Array:
    """Sums (N, P, T + 1) for targets and all classes to probabilities (N, P, T)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = sums[..., :-1] / sums[..., -1:]
    return to_float32(shares)


def agrees_with_graph(head: CalmHead, generic: GenericHead, context: QueryContext) -> bool:
    """Whether sums of cells give what the head itself gives, on a few boxes."""
    height, width = context.activations.shape[2:]
    boxes = sample_boxes(height, width, most=4)
    found = head.scores_with_boxes(context, boxes, delete=True, keep=True)
    expected = generic.scores_with_boxes(context, boxes, delete=True, keep=True)
    return all(
        mine is not None
        and theirs is not None
        and bool((np.abs(to_numpy(mine) - to_numpy(theirs)) <= PROBABILITY_TOLERANCE).all())
        for mine, theirs in zip(found, expected, strict=True)
    )


@ignore_float_errors
def is_joint_distribution(log_joint: npt.NDArray[Any], logits: npt.NDArray[Any]) -> bool:
    """Whether p(y,z|x) adds up to one, and over places to exp of the logits.

    Args:
        log_joint: log p(y,z|x), (N, C, h, w).
        logits: log p(y|x), (N, C).
    """
    if log_joint.ndim != 4 or log_joint.shape[:2] != logits.shape:
        return False
    if np.isnan(log_joint).any() or not np.isfinite(logits).all():
        return False
    of_class = np.exp(log_joint.astype(np.float64)).sum(axis=(2, 3))
    whole = np.abs(of_class.sum(axis=1) - 1).max()
    return bool(max(whole, np.abs(of_class - np.exp(logits.astype(np.float64))).max()) <= SUM_TOLERANCE)
