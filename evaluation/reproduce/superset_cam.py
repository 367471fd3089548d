"""CAM of a set of classes, the baseline "CAM+Y" of CALM's localisation tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from camrt.engine.class_sets import class_sets
from camrt.engine.heads import Head
from camrt.engine.methods import Cost, MapShape, Method
from camrt.engine.methods.cam import CAM
from camrt.engine.questions import Questions

__all__ = ["SupersetCAM"]


@dataclass(frozen=True, kw_only=True)
class SupersetCAM(Method):
    """CAM+Y: the class maps of all classes that belong with the target, each from 0 to 1, added up.

    "Keep CALM and Improve Visual Feature Attribution" (ICCV 2021), section 5.4, as its code has it. Maps of
    logits cannot be added as probabilities can, so that each is stretched from its minimum to its maximum
    first; a constant one adds nothing.

    Attributes:
        classes: The sets, a name of `camrt.engine.class_sets`.
    """

    name: ClassVar[str] = "cam+y"

    normalisation: Literal["max", "minmax"] = "minmax"
    classes: str = "imagenet"

    @property
    def rectified(self) -> bool:
        """Sums of maps from 0 to 1 are nowhere negative."""
        return False

    def raw(self, ask: Questions) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """See `Method`."""
        pictures, classes = ask.logits.shape
        every = np.broadcast_to(np.arange(classes), (pictures, classes))
        maps = replace(ask, targets=every).class_maps().astype(np.float64)
        low = maps.min(axis=(2, 3), keepdims=True)
        span = maps.max(axis=(2, 3), keepdims=True) - low
        stretched = np.divide(maps - low, span, out=np.zeros_like(maps), where=span > 0)
        sets = class_sets(self.classes, classes)
        members = (sets[ask.targets][:, :, None] == sets).astype(np.float64)
        added = np.einsum("ntc,nchw->nthw", members, stretched, optimize=True)
        return added.astype(np.float32), ask.scores("logit")

    def cost(self, head: Head, shape: MapShape) -> Cost:
        """See `Method`."""
        return CAM().cost(head, shape)
