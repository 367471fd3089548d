"""Maps of vision transformers that are made of their attention weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from camrt.engine.arrays import arange_like, library, repeat, to_float32
from camrt.engine.heads import Head
from camrt.engine.methods.base import Cost, MapShape, Method
from camrt.engine.queries import HeadQueries, Need
from camrt.export.adjoint.attention_weights import HeadFusion

__all__ = ["AttentionRollout", "LeGrad"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


@dataclass(frozen=True, kw_only=True)
class AttentionRollout(Method):
    """Attention rollout: how much of each cell's token is in the token that is read, for all classes alike.

    "Quantifying Attention Flow in Transformers" (Abnar & Zuidema, ACL 2020, section 3): the product of all
    layers' (A + I)/2, A a layer's weights with its heads taken together, rows brought to sum to one.

    Attributes:
        heads: How heads are taken together; the paper takes the mean.
        discard: Share of each layer's smallest weights that count as zero: 0 in the paper, less than 1.
        read: Which token's row of the product is the map: the "first", the class token, or the "mean" of all.
            None takes the first where the model has tokens beside those of cells.
    """

    name: ClassVar[str] = "rollout"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ATTENTION})
    no_contrast: ClassVar[str] = "its map is the same for every class"

    heads: HeadFusion = "mean"
    discard: float = 0.0
    read: Literal["first", "mean"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_number("discard", 0.0, most=math.nextafter(1.0, 0.0))

    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        layers = queries.attention.weights(self.heads)
        xp = library(*layers)
        flow: Array = None
        for weights in layers:
            wide = xp.astype(weights, xp.float64)
            mixed = self.without_smallest(wide) + identity_like(wide)
            mixed = mixed / xp.sum(mixed, axis=2, keepdims=True)
            flow = mixed if flow is None else mixed @ flow
        first = self.read == "first" or (self.read is None and queries.attention.prefix > 0)
        row = flow[:, 0] if first else xp.mean(flow, axis=1)
        cells = queries.attention.to_cells(to_float32(row))
        return repeat(cells[:, None], queries.targets.shape[1], axis=1), queries.scores("logit")

    def without_smallest(self, weights: Array) -> Array:
        """Weights (N, L, L) with the smallest of each image set to zero."""
        xp = library(weights)
        flat = xp.reshape(weights, (weights.shape[0], -1))
        count = int(self.discard * flat.shape[1])
        if not count:
            return weights
        limit = xp.sort(flat, axis=1)[:, count : count + 1]
        return xp.reshape(xp.where(flat < limit, xp.zeros_like(flat), flat), weights.shape)

    def cost(self, head: Head, shape: MapShape) -> Cost:
        return Cost(0, 1, "a pass that gives the attention weights")


def identity_like(weights: Array) -> Array:
    """The unit matrix of the size of each of some (N, L, L)."""
    xp = library(weights)
    places = arange_like(weights.shape[-1], weights)
    return xp.astype(places[:, None] == places[None], weights.dtype)


@dataclass(frozen=True, kw_only=True)
class LeGrad(Method):
    """LeGrad: what a class's score gains by attention to each cell, in every layer.

    "LeGrad: An Explainability Method for Vision Transformers via Feature Formation Sensitivity" (Bousselham
    et al., ICCV 2025, section 3): the mean over layers, heads and tokens that attend of what is positive of
    ∂s/∂A, A the layer's attention weights and s the logit that the model's last part (normalisation and
    classifier) makes of the mean of that layer's tokens.
    """

    name: ClassVar[str] = "legrad"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ATTENTION})

    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        found = [
            queries.attention.to_cells(queries.attention.relevance(target))
            for target in range(queries.targets.shape[1])
        ]
        return library(*found).stack(found, axis=1), queries.scores("logit")

    def cost(self, head: Head, shape: MapShape) -> Cost:
        return Cost(0, 0, "every layer there and back", full_adjoint=1)
