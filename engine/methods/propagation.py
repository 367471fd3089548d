"""DeepLIFT and LRP: the logit handed back to the pixels by other rules than the gradient's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from camrt.engine.arrays import arange_like, library, repeat, to_float32, zeros
from camrt.engine.methods.pixels import AttributionMethod
from camrt.engine.methods.references import check_references
from camrt.engine.queries import HeadQueries
from camrt.errors import MethodError
from camrt.export.adjoint import EPSILON, REFERENCE, PropagationRule

__all__ = ["LRP", "DeepLift"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


@dataclass(frozen=True, kw_only=True)
class LogitShares(AttributionMethod):
    """What methods have in common that hand back a logit, which is linear in what the last layer reads."""

    colours: Literal["max", "sum"] = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score != "logit":
            raise MethodError(
                f"{self.name}: score={self.score!r}: it shares out logits, and no probabilities"
            )

    def attributions(self, queries: HeadQueries, target: int) -> Array:
        if not queries.has_logits:
            raise MethodError(f"{self.name} shares out a logit, and a CALM model has none: use 'calm'")
        return self.shares(queries, target)

    @abstractmethod
    def shares(self, queries: HeadQueries, target: int) -> Array:
        """The shares of all images, (N, C, H, W), of a model that has logits."""

    def propagated(
        self, queries: HeadQueries, target: int, rule: PropagationRule, extra: Mapping[str, Array]
    ) -> Array:
        """What a rule hands back to the images."""
        every = arange_like(len(queries.images), queries.images)
        return queries.image_gradients(queries.images, every, target, "logit", relu=rule, extra_inputs=extra)


@dataclass(frozen=True, kw_only=True)
class DeepLift(LogitShares):
    """DeepLIFT by its rescale rule: (x − r)·m, m the multipliers Δlogit/Δx, for a reference image r.

    "Learning Important Features Through Propagating Activation Differences" (Shrikumar et al., ICML 2017,
    sections 3.2 to 3.6); `camrt.export.adjoint.propagation.rescale` has the rule of each operator. It sums to
    logit(x) − logit(r). With several references it is the mean over them ("A Unified Approach to Interpreting
    Model Predictions", Lundberg & Lee, NIPS 2017, section 4.2; captum's DeepLiftShap).

    Attributes:
        references: (R, C, H, W) as the model takes images; None for an image of zeros.
    """

    name: ClassVar[str] = "deeplift"

    references: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "references", check_references(self.name, self.references))

    def shares(self, queries: HeadQueries, target: int) -> Array:
        images = queries.images
        total = zeros(images.shape, images, "float64")
        count = 1 if self.references is None else len(self.references)
        for number in range(count):
            if self.references is None:
                reference = library(images).zeros_like(images)
            else:
                reference = repeat(self.references.at(number, images), len(images), axis=0)
            multipliers = self.propagated(queries, target, "rescale", {REFERENCE: reference})
            total += multipliers * (images - reference)
        return to_float32(total / count)

    def count_runs(self) -> tuple[int, str]:
        count = 1 if self.references is None else len(self.references)
        return count, "the model there and back, with a reference on the way there"


@dataclass(frozen=True, kw_only=True)
class LRP(LogitShares):
    """Layer-wise relevance propagation: the logit handed back from layer to layer, none of it lost.

    "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance Propagation" (Bach
    et al., PLOS ONE 2015); `camrt.export.adjoint.propagation.layerwise` has the rules. What biases and ε take
    does not reach the pixels.

    Attributes:
        rule: "epsilon" for every layer; "z+" for convolutions and matrix products; "composite": epsilon for
            matrix products, z+ for convolutions, and the flat rule for the first.
        epsilon: ε, which what is divided by is moved away from zero by.
    """

    name: ClassVar[str] = "lrp"

    rule: Literal["epsilon", "z+", "composite"] = "epsilon"
    epsilon: float = 1e-9

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_number("epsilon", above=0.0)

    def shares(self, queries: HeadQueries, target: int) -> Array:
        level = zeros((len(queries.images),), queries.images) + np.float32(self.epsilon)
        return self.propagated(queries, target, self.rule, {EPSILON: level})

    def count_runs(self) -> tuple[int, str]:
        return 1, "the model and its rules, there and back"
