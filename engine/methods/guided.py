"""Guided back-propagation, alone and times any class-activation map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from camrt.engine.arrays import library
from camrt.engine.heads import Head
from camrt.engine.methods.base import Cost, MapShape, Method
from camrt.engine.methods.pixels import Array, Gradient, gaussian_blur
from camrt.engine.methods.wrapping import MapWrapper, wrap
from camrt.engine.queries import HeadQueries
from camrt.export.adjoint import ReluRule

__all__ = ["GuidedBackpropagation", "GuidedMethod", "times_guided"]


@dataclass(frozen=True, kw_only=True)
class GuidedBackpropagation(Gradient):
    """Guided back-propagation: V(x) with ReLUs that pass on only gradients that are positive too.

    Its maps are made of single pixels, of which the strongest outshines the rest: a small blur shows them.

    "Striving for Simplicity: The All Convolutional Net" (Springenberg et al., 2015, section 3.4). A model
    without a ReLU is refused.
    """

    name: ClassVar[str] = "guided"
    relu: ClassVar[ReluRule] = "guided"

    blur: int = 9

    @property
    def no_counterfactual(self) -> str:
        return ""  # ReLUs pass on what is positive


@dataclass(frozen=True, kw_only=True)
class GuidedMethod(MapWrapper):
    """Guided back-propagation times a class-activation map at the image's size.

    "Pixab-CAM: Attend Pixel, not Channel" (ICLR 2022 submission), Figure 9, for seven maps; for Grad-CAM
    already in "Grad-CAM" (Selvaraju et al., ICCV 2017, section 3.3). A `score` of None is the logit for
    guided back-propagation.

    Attributes:
        blur: Side of the Gaussian kernel that smooths the product, see `PixelMethod`.
    """

    prefix: ClassVar[str] = "guided"
    summary: ClassVar[str] = "Guided back-propagation times the {} map at the image's size."

    normalisation: Literal["max", "minmax"] = "minmax"
    blur: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.back_propagation  # refuses what it does not understand

    @property
    def back_propagation(self) -> GuidedBackpropagation:
        """The fine factor."""
        return GuidedBackpropagation(score=self.score or "logit", blur=self.blur)

    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        where, _ = self.map_saliency(queries, "native")
        fine = self.back_propagation
        each = [fine.maps(queries, target) for target in range(queries.targets.shape[1])]
        both = library(*each).stack(each, axis=1) * where
        return gaussian_blur(both, self.blur), queries.scores(fine.score)

    def cost(self, head: Head, shape: MapShape) -> Cost:
        coarse, fine = self.map_method.cost(head, shape), self.back_propagation.cost(head, shape)
        return Cost(
            coarse.head + fine.head,
            coarse.full + fine.full,
            fine.why,
            head_adjoint=coarse.head_adjoint + fine.head_adjoint,
            full_adjoint=coarse.full_adjoint + fine.full_adjoint,
        )


def times_guided(map_class: type[Method]) -> type[MapWrapper] | None:
    """The class of guided back-propagation times a method's map; None where `wrap` has none."""
    return wrap(GuidedMethod, map_class)
