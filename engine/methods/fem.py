"""Feature Explanation Method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from camrt.engine.arrays import library, repeat, reserve_for, to_float32
from camrt.engine.heads import Head
from camrt.engine.methods.base import SAME_FOR_EVERY_CLASS, Cost, MapShape, Method, weighted_sum
from camrt.engine.queries import HeadQueries

__all__ = ["FEM"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


@dataclass(frozen=True, kw_only=True)
class FEM(Method):
    """FEM: where channels are rare and strong, the same for every class.

    "Features Understanding in 3D CNNs for Actions Recognition in Video" (Fuad et al., IPTA 2020), section on
    the Feature Explanation Method. With μ_k and σ_k the mean and the (population) standard deviation of
    channel k over the cells, B_k marks the cells where A_k − μ_k is at least `sigmas`·σ_k:

    * `definition="paper"`: L = Σ_k μ_k·B_k. A constant channel marks every cell.
    * `definition="grad-cam"` (the pytorch-grad-cam package): L = Σ_k mean(B_k)·A_k, and what lies exactly at
      the threshold is not marked.

    Of L cells none is further than (L − 1)/√L standard deviations from the mean: of 5 cells, none is 2.

    Attributes:
        definition: Which of the two.
        sigmas: How many standard deviations above the mean a cell is marked.
    """

    name: ClassVar[str] = "fem"
    no_contrast: ClassVar[str] = SAME_FOR_EVERY_CLASS

    definition: Literal["paper", "grad-cam"] = "paper"
    sigmas: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_number("sigmas")

    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        activations = queries.activations
        xp = library(activations)
        reserve_for((4, *activations.shape), activations, "activations")
        # from its first cell, so that a constant channel has exactly no deviation
        away = xp.astype(activations, xp.float64) - activations[:, :, :1, :1]
        centre = xp.mean(away, axis=(2, 3), keepdims=True)
        away = away - centre
        threshold = self.sigmas * xp.sqrt(xp.mean(away * away, axis=(2, 3), keepdims=True))
        if self.definition == "paper":
            marked = to_float32(away >= threshold)
            weights = (centre + activations[:, :, :1, :1])[:, None, :, 0, 0]
            maps = weighted_sum(weights, marked)
        else:
            weights = xp.mean(to_float32(away > threshold), axis=(2, 3))[:, None]
            maps = weighted_sum(weights, activations)
        return repeat(maps, queries.targets.shape[1], axis=1), queries.scores("logit")

    def cost(self, head: Head, shape: MapShape) -> Cost:
        return Cost(0, 0, "a threshold a channel")
