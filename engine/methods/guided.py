"""Guided back-propagation, alone and with a coarse map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from camrt.engine.arrays import library
from camrt.engine.heads import Head
from camrt.engine.images.framing import uncropped_saliency
from camrt.engine.methods.ablation import AblationCAM
from camrt.engine.methods.base import Cost, MapShape, Method
from camrt.engine.methods.cam import ActivationCAM
from camrt.engine.methods.gradients import GradCAM, GradCAMPlusPlus, GradientMethod, XGradCAM
from camrt.engine.methods.pixab import PixabCAM
from camrt.engine.methods.pixels import Array, Gradient, gaussian_blur
from camrt.engine.methods.score import ScoreCAM
from camrt.engine.queries import HeadQueries
from camrt.export.adjoint import ReluRule

__all__ = [
    "GuidedAblationCAM",
    "GuidedActivationCAM",
    "GuidedBackpropagation",
    "GuidedGradCAM",
    "GuidedGradCAMPlusPlus",
    "GuidedPixabCAM",
    "GuidedScoreCAM",
    "GuidedXGradCAM",
]


@dataclass(frozen=True, kw_only=True)
class GuidedBackpropagation(Gradient):
    """Guided back-propagation: V(x) with ReLUs that pass on only gradients that are positive too.

    Its maps are made of single pixels, of which the strongest outshines the rest: a small blur shows them.

    "Striving for Simplicity: The All Convolutional Net" (Springenberg et al., 2015, section 3.4). A model
    without a ReLU is refused.
    """

    name: ClassVar[str] = "guided"
    relu: ClassVar[ReluRule] = "guided"
    no_counterfactual: ClassVar[str] = ""  # ReLUs pass on what is positive

    blur: int = 9


@dataclass(frozen=True, kw_only=True)
class GuidedMethod(GuidedBackpropagation):
    """Guided back-propagation times a class-activation map at the image's size.

    "Pixab-CAM: Attend Pixel, not Channel" (ICLR 2022 submission), Figure 9, for seven maps; for Grad-CAM
    already in "Grad-CAM" (Selvaraju et al., ICCV 2017, section 3.3).
    """

    map_class: ClassVar[type[Method]]
    """The class of the map's method, with its own options."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.needs = GuidedBackpropagation.needs | cls.map_class.needs

    @property
    def map_method(self) -> Method:
        """The method of the map; where that follows a gradient, one of the same score."""
        if issubclass(self.map_class, GradientMethod):
            return self.map_class(score=self.score)
        return self.map_class()

    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        method = self.map_method
        found, _ = method.raw(queries)
        size = (queries.images.shape[2], queries.images.shape[3])
        xp = library(found)
        flat = xp.reshape(xp.astype(found, xp.float32, copy=False), (-1, *found.shape[2:]), copy=True)
        where, _ = uncropped_saliency(
            flat,
            queries.framing,
            mode="native",
            normalisation=method.normalisation,
            relu=True,
            threads=queries.threads,
        )
        fine = [self.maps(queries, target) for target in range(queries.targets.shape[1])]
        both = xp.stack(fine, axis=1) * xp.reshape(where, (*found.shape[:2], *size))
        return gaussian_blur(both, self.blur), queries.scores(self.score)

    def cost(self, head: Head, shape: MapShape) -> Cost:
        coarse, fine = self.map_method.cost(head, shape), super().cost(head, shape)
        return Cost(
            coarse.head + fine.head,
            coarse.full + fine.full,
            fine.why,
            head_adjoint=coarse.head_adjoint + fine.head_adjoint,
            full_adjoint=coarse.full_adjoint + fine.full_adjoint,
        )


@dataclass(frozen=True, kw_only=True)
class GuidedGradCAM(GuidedMethod):
    """Guided Grad-CAM: guided back-propagation times the Grad-CAM map at the image's size."""

    name: ClassVar[str] = "guided-gradcam"
    map_class: ClassVar[type[Method]] = GradCAM


@dataclass(frozen=True, kw_only=True)
class GuidedGradCAMPlusPlus(GuidedMethod):
    """Guided back-propagation times the Grad-CAM++ map at the image's size."""

    name: ClassVar[str] = "guided-gradcam++"
    map_class: ClassVar[type[Method]] = GradCAMPlusPlus


@dataclass(frozen=True, kw_only=True)
class GuidedXGradCAM(GuidedMethod):
    """Guided back-propagation times the XGrad-CAM map at the image's size."""

    name: ClassVar[str] = "guided-xgradcam"
    map_class: ClassVar[type[Method]] = XGradCAM


@dataclass(frozen=True, kw_only=True)
class GuidedActivationCAM(GuidedMethod):
    """Guided back-propagation times the Activation-CAM map at the image's size."""

    name: ClassVar[str] = "guided-activation"
    map_class: ClassVar[type[Method]] = ActivationCAM


@dataclass(frozen=True, kw_only=True)
class GuidedScoreCAM(GuidedMethod):
    """Guided back-propagation times the Score-CAM map at the image's size."""

    name: ClassVar[str] = "guided-score"
    map_class: ClassVar[type[Method]] = ScoreCAM


@dataclass(frozen=True, kw_only=True)
class GuidedAblationCAM(GuidedMethod):
    """Guided back-propagation times the Ablation-CAM map at the image's size."""

    name: ClassVar[str] = "guided-ablation"
    map_class: ClassVar[type[Method]] = AblationCAM


@dataclass(frozen=True, kw_only=True)
class GuidedPixabCAM(GuidedMethod):
    """Guided-CAM: guided back-propagation times the Pixab-CAM map at the image's size."""

    name: ClassVar[str] = "guided-pixab"
    map_class: ClassVar[type[Method]] = PixabCAM
