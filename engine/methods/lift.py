"""LIFT-CAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from camrt.engine.arrays import is_constant_over_cells, library
from camrt.engine.heads import Head
from camrt.engine.methods.base import ChannelMethod, Cost, MapShape
from camrt.engine.methods.gradients import gradient_is_constant
from camrt.engine.queries import HeadQueries, Need
from camrt.engine.scores import ScoreKind
from camrt.errors import MethodError

__all__ = ["LIFTCAM"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


@dataclass(frozen=True, kw_only=True)
class LIFTCAM(ChannelMethod):
    """LIFT-CAM: channels weighted by what they add to the logit of nothing, as DeepLIFT shares it out.

    "Towards Better Explanations of Class Activation Mapping" (Jung and Oh, ICCV 2021, section 3.3): α_k =
    Σ_ij m_kij·A_kij, m the multipliers of DeepLIFT's rescale rule through the head, against an activation of
    zeros; Σ_k α_k = logit(A) − logit(0). Behind linear layers α_k is exactly what the logit falls by without
    channel k. What operators have a rule: `camrt.export.adjoint.propagation.rescale`; of torch modules none
    but a linear layer has.
    """

    name: ClassVar[str] = "lift"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS})
    score: ClassVar[ScoreKind] = "logit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.contrast == "similar-weighted":
            raise MethodError(
                "lift: contrast='similar-weighted' is not for it: its weights are no sum of logits, which it "
                "shares out; use 'similar'"
            )

    def weights(self, queries: HeadQueries) -> tuple[Array, Array]:
        if not queries.has_logits:
            raise MethodError("lift shares out a logit, and a CALM model has none: use 'calm'")
        linear = gradient_is_constant(self, queries.head)
        multipliers = queries.gradients("logit") if linear else queries.multipliers()
        found = [self._share(one, queries.activations) for one in multipliers]
        return library(*found).stack(found, axis=1), queries.scores("logit")

    def _share(self, multipliers: Array, activations: Array) -> Array:
        """α (N, K)."""
        xp = library(multipliers, activations)
        if is_constant_over_cells(multipliers):
            return multipliers[:, :, 0, 0] * xp.sum(activations, axis=(2, 3))
        return xp.einsum("nkij,nkij->nk", multipliers, activations)

    def cost(self, head: Head, shape: MapShape) -> Cost:
        if gradient_is_constant(self, head):
            return Cost(0, 0, "the head is one linear layer: algebra")
        if head.multipliers is None:
            raise MethodError(
                f"DeepLIFT's rule is of graphs, and this head is {head.kind}: use camrt.to_onnx"
            )
        return Cost(0, 0, "the head there and back, with nothing on the way there", head_adjoint=1)
