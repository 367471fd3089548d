"""ShapleyCAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from camrt.engine.arrays import library
from camrt.engine.heads import Head
from camrt.engine.methods.base import ChannelMethod, Cost, MapShape
from camrt.engine.methods.gradients import gradient_is_constant, mean_over_cells
from camrt.engine.queries import HeadQueries, Need
from camrt.engine.scores import ScoreKind
from camrt.errors import MethodError

__all__ = ["ShapleyCAM"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


@dataclass(frozen=True, kw_only=True)
class ShapleyCAM(ChannelMethod):
    """ShapleyCAM: channels weighted by their mean gradient, less half of how it bends along the activation.

    "CAMs as Shapley Value-based Explainers" (Cai, The Visual Computer 2025): α_k = mean_ij (G − ½·H·A)_kij,
    H the score's Hessian at the activation A, as the second-order Taylor expansion of a game gives it. H·A is
    exact: the graph of the gradient is differentiated once more. Behind a network that is linear in pieces H
    is zero and the map is Grad-CAM's, as of every logit behind global pooling and a linear layer.

    Attributes:
        score: The game's utility: the logit, or the probability.
    """

    name: ClassVar[str] = "shapley"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS})

    score: ScoreKind = "logit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.contrast == "similar-weighted":
            raise MethodError(
                "shapley: contrast='similar-weighted' is not for it: how its weights bend with the "
                "activation is not followed; use 'similar'"
            )

    def weights(self, queries: HeadQueries) -> tuple[Array, Array]:
        if gradient_is_constant(self, queries.head):
            found = [mean_over_cells(gradient) for gradient in queries.gradients(self.score)]
        else:
            found = [
                mean_over_cells(gradient) - 0.5 * mean_over_cells(product)
                for gradient, product in queries.gradients_and_curvatures(self.score)
            ]
        return library(*found).stack(found, axis=1), queries.scores(self.score)

    def cost(self, head: Head, shape: MapShape) -> Cost:
        if gradient_is_constant(self, head):
            return Cost(0, 0, "the head is one linear layer: no second derivative")
        runs = 2 if self.score == "logit" else 4
        return Cost(0, 0, "the head's adjoint, and its own, forth and back", head_adjoint=runs)
