"""Guided back-propagation, alone and with a coarse map."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from camrt.engine.arrays import library
from camrt.engine.framing import placed_saliency
from camrt.engine.heads import Head
from camrt.engine.methods.base import Cost, MapShape, Method
from camrt.engine.methods.gradients import GradCAM
from camrt.engine.methods.pixab import PixabCAM
from camrt.engine.methods.pixels import Array, Gradient, blurred
from camrt.engine.questions import Questions
from camrt.export.adjoint import ReluRule

__all__ = ["GuidedBackpropagation", "GuidedGradCAM", "GuidedPixabCAM"]


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


@dataclass(frozen=True, kw_only=True)
class GuidedMap(GuidedBackpropagation):
    """Guided back-propagation times a coarse map at the picture's size."""

    @abstractmethod
    def coarse(self, ask: Questions) -> tuple[Array, Method]:
        """The raw maps (N, T, h, w) of all targets, and the method that made them."""

    def raw(self, ask: Questions) -> tuple[Array, Array]:
        found, method = self.coarse(ask)
        size = (ask.pictures.shape[2], ask.pictures.shape[3])
        xp = library(found)
        flat = xp.reshape(xp.astype(found, xp.float32, copy=False), (-1, *found.shape[2:]), copy=True)
        where, _ = placed_saliency(
            flat,
            ask.framing,
            mode="native",
            normalisation=method.normalisation,
            relu=True,
            threads=ask.threads,
        )
        fine = [self.maps(ask, target) for target in range(ask.targets.shape[1])]
        both = xp.stack(fine, axis=1) * xp.reshape(where, (*found.shape[:2], *size))
        return blurred(both, self.blur), ask.scores(self.score)


@dataclass(frozen=True, kw_only=True)
class GuidedGradCAM(GuidedMap):
    """Guided Grad-CAM: guided back-propagation times the Grad-CAM map at the picture's size.

    "Grad-CAM" (Selvaraju et al., ICCV 2017, section 3.3).
    """

    name: ClassVar[str] = "guided-gradcam"

    @property
    def asks_gradients(self) -> bool:
        return True

    def coarse(self, ask: Questions) -> tuple[Array, Method]:
        method = GradCAM(score=self.score)
        return method.raw(ask)[0], method

    def cost(self, head: Head, shape: MapShape) -> Cost:
        passes, _ = head.gradient_passes()
        whole = super().cost(head, shape)
        return Cost(whole.head, whole.full, whole.why, head_adjoint=passes, full_adjoint=whole.full_adjoint)


@dataclass(frozen=True, kw_only=True)
class GuidedPixabCAM(GuidedMap):
    """Guided-CAM: guided back-propagation times the Pixab-CAM map at the picture's size.

    "Pixab-CAM: Attend Pixel, not Channel" (ICLR 2022 submission), its Guided-CAM.
    """

    name: ClassVar[str] = "guided-pixab"

    @property
    def asks_boxes(self) -> bool:
        return True

    def coarse(self, ask: Questions) -> tuple[Array, Method]:
        method = PixabCAM()
        return method.raw(ask)[0], method

    def cost(self, head: Head, shape: MapShape) -> Cost:
        coarse, whole = PixabCAM().cost(head, shape), super().cost(head, shape)
        return Cost(coarse.head + whole.head, whole.full, whole.why, full_adjoint=whole.full_adjoint)
