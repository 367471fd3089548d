"""Guided back-propagation, alone and with Grad-CAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from camrt.engine.heads import Head
from camrt.engine.methods.base import Cost, MapShape
from camrt.engine.methods.gradients import GradCAM
from camrt.engine.methods.pixels import Array, Gradient, strongest
from camrt.engine.questions import Questions
from camrt.export.adjoint import ReluRule
from camrt.kernels.saliency import saliency

__all__ = ["GuidedBackpropagation", "GuidedGradCAM"]


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
class GuidedGradCAM(GuidedBackpropagation):
    """Guided Grad-CAM: guided back-propagation times the Grad-CAM map at the picture's size.

    "Grad-CAM" (Selvaraju et al., ICCV 2017, section 3.3).
    """

    name: ClassVar[str] = "guided-gradcam"

    @property
    def asks_gradients(self) -> bool:
        return True

    def maps(self, ask: Questions, target: int) -> Array:
        coarse, _ = GradCAM(score=self.score).raw(ask.of_target(target))
        size = (ask.pictures.shape[2], ask.pictures.shape[3])
        where, _ = saliency(
            np.ascontiguousarray(coarse[:, 0], np.float32), size,
            mode="native", normalisation="max", relu=True, threads=ask.threads,
        )  # fmt: skip
        images = np.arange(len(ask.pictures))
        found = ask.picture_gradients(ask.pictures, images, target, self.score, relu=self.relu)
        return strongest(found) * where

    def cost(self, head: Head, shape: MapShape) -> Cost:
        passes, _ = head.gradient_passes()
        whole = super().cost(head, shape)
        return Cost(whole.head, whole.full, whole.why, head_adjoint=passes, full_adjoint=whole.full_adjoint)
