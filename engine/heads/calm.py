"""CALM's head: p(y|x) is a ratio of two sums over cells, so that boxes are answered by sums of cells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from camrt.engine.arrays import at_least, host, library, like, single, zeros
from camrt.engine.backends import Runner
from camrt.engine.heads.base import Asked, Boxes, Head, sample_boxes
from camrt.engine.heads.generic import GenericHead
from camrt.engine.operations import operations

__all__ = ["CalmHead", "agrees"]

Array = Any

# Largest difference of a probability between the sums of cells and the head itself.
SAME = 1e-4


class CalmHead(Head):
    """p(y|x) = Σ_z g[y,z]·a[z] / Σ_z a[z], with g and a functions of the cell z alone.

    The head is run once a picture, on the activation and a row of zero cells below it. What it gives,
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

    def with_boxes(
        self, asked: Asked, boxes: Boxes, *, delete: bool, keep: bool
    ) -> tuple[Array | None, Array | None]:
        activations = asked.activations
        count, channels, height, width = activations.shape
        xp = library(activations)
        below = zeros((count, channels, 1, width), activations)
        asked.passes.head += count
        log_joint = self._joint(xp.concat([activations, below], axis=2))[0]
        joint = xp.exp(xp.astype(log_joint, xp.float64))
        # Of each cell what it gives the targets, and, last, all classes together: (N, h + 1, w, T + 1).
        chosen = xp.take_along_axis(joint, asked.reader.targets[:, :, None, None], axis=1)
        shares = xp.concat([chosen, xp.sum(joint, axis=1, keepdims=True)], axis=1)
        shares = xp.permute_dims(shares, (0, 2, 3, 1))
        cells, nothing = shares[:, :height], shares[:, height, 0]
        inside = operations(cells).box_sums(cells, boxes, self._threads)
        area = like((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), cells)[:, None]
        deleted = kept = None
        if delete:
            outside = at_least(xp.sum(cells, axis=(1, 2))[:, None] - inside, 0.0)
            deleted = ratio(outside + area * nothing[:, None])
        if keep:
            kept = ratio(inside + (height * width - area) * nothing[:, None])
        return deleted, kept

    def without_channels(self, asked: Asked) -> Array:
        return self.generic.without_channels(asked)

    def empty(self, asked: Asked) -> Array:
        return self.generic.empty(asked)

    def gradients(self, asked: Asked) -> Iterator[Array]:
        return self.generic.gradients(asked)

    def gradient_passes(self) -> tuple[int, str]:
        return self.generic.gradient_passes()

    def class_maps(self, asked: Asked) -> Array | None:
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


def ratio(sums: Array) -> Array:
    """Sums (N, P, T + 1) for targets and all classes to probabilities (N, P, T)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = sums[..., :-1] / sums[..., -1:]
    return single(shares)


def agrees(head: CalmHead, generic: GenericHead, asked: Asked) -> bool:
    """Whether sums of cells give what the head itself gives, on a few boxes."""
    height, width = asked.activations.shape[2:]
    boxes = sample_boxes(height, width, most=4)
    found = head.with_boxes(asked, boxes, delete=True, keep=True)
    expected = generic.with_boxes(asked, boxes, delete=True, keep=True)
    return all(
        mine is not None and theirs is not None and bool((np.abs(host(mine) - host(theirs)) <= SAME).all())
        for mine, theirs in zip(found, expected, strict=True)
    )
