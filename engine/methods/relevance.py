"""Relevance-CAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from camrt.engine.arrays import library
from camrt.engine.heads import Head
from camrt.engine.methods.base import ChannelMethod, Cost, MapShape
from camrt.engine.queries import HeadQueries, Need
from camrt.errors import MethodError

__all__ = ["RelevanceCAM"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


@dataclass(frozen=True, kw_only=True)
class RelevanceCAM(ChannelMethod):
    """Relevance-CAM: channels weighted by the relevance that LRP hands back to them.

    "Relevance-CAM: Your Model Already Knows Where to Look" (Lee et al., CVPR 2021, section 3): α_k =
    Σ_ij R_kij, R the relevance of the z⁺-rule, handed back from z at the target and −z/C at each of the C − 1
    other classes, z the target's logit. Which operators have a rule is in
    `camrt.export.adjoint.propagation.layerwise`.
    """

    name: ClassVar[str] = "relevance"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS})
    no_contrast: ClassVar[str] = "it is held against all other classes already"

    def weights(self, queries: HeadQueries) -> tuple[Array, Array]:
        if not queries.has_logits:
            raise MethodError("relevance hands back a logit, and a CALM model has none: use 'calm'")
        found = [library(one).sum(one, axis=(2, 3)) for one in queries.relevance()]
        return library(*found).stack(found, axis=1), queries.scores("logit")

    def cost(self, head: Head, shape: MapShape) -> Cost:
        if head.relevance is None:
            raise MethodError(f"its rules are of graphs, and this head is {head.kind}: use camrt.to_onnx")
        return Cost(0, 0, "the head and its rules, there and back", head_adjoint=1)
