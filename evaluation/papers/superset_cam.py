"""CAM of a set of classes, the baseline "CAM+Y" of CALM's localisation tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from typing_extensions import override

from camrt.engine.arrays import arange_like, constant_like, library, safe_divide, to_float32
from camrt.engine.class_sets import class_sets
from camrt.engine.heads import Head
from camrt.engine.methods import Cost, MapShape, Method
from camrt.engine.methods.cam import CAM
from camrt.engine.queries import HeadQueries, Need

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
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ALTERATIONS})

    normalisation: Literal["max", "minmax"] = "minmax"
    classes: str = "imagenet"

    @property
    def applies_relu(self) -> bool:
        """Sums of maps from 0 to 1 are nowhere negative."""
        return False

    @override
    def raw(self, ask: HeadQueries) -> tuple[Any, Any]:
        images, classes = ask.logits.shape
        xp = library(ask.logits)
        every = xp.broadcast_to(arange_like(classes, ask.logits)[None], (images, classes))
        maps = xp.astype(replace(ask, targets=every).class_maps(), xp.float64)
        low = xp.min(maps, axis=(2, 3), keepdims=True)
        span = xp.max(maps, axis=(2, 3), keepdims=True) - low
        stretched = safe_divide(maps - low, xp.broadcast_to(span, maps.shape), span > 0)
        sets = constant_like(class_sets(self.classes, classes), ask.logits)
        members = xp.astype(sets[ask.targets][:, :, None] == sets, xp.float64)
        added = xp.matmul(members, stretched.reshape(images, classes, -1))
        return to_float32(added).reshape(*members.shape[:2], *maps.shape[2:]), ask.scores("logit")

    @override
    def cost(self, head: Head, shape: MapShape) -> Cost:
        return CAM().cost(head, shape)
