"""CAM and Activation-CAM: maps that need nothing but the trunk pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from camrt.engine.arrays import library, repeat
from camrt.engine.heads import Head
from camrt.engine.methods.base import SAME_FOR_EVERY_CLASS, Cost, MapShape, Method, Need
from camrt.engine.queries import HeadQueries
from camrt.errors import MethodError

__all__ = ["CAM", "ActivationCAM"]

Array = Any


@dataclass(frozen=True, kw_only=True)
class CAM(Method):
    """CAM: the class's own map, whose mean is its logit.

    "Learning Deep Features for Discriminative Localization" (Zhou et al., CVPR 2016), in the form of
    "Keep CALM and Improve Visual Feature Attribution" (ICCV 2021):

        f[c]_ij = Σ_k W[c, k] · φ(A)_kij + b[c],    logit[c] = mean_ij f[c]_ij

    with A the activation at the cut, φ what acts on each cell (often nothing), W and b the linear layer
    behind global pooling. Normalised "max", negative values are cut off first; normalised "minmax" they are
    not, (f − min f)/(max f − min f), so that the bias, which shifts the whole map, changes nothing.
    """

    name: ClassVar[str] = "cam"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ALTERATIONS})

    @property
    def applies_relu(self) -> bool:
        return self.postprocess == "library" or self.normalisation == "max"

    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        return queries.class_maps(), queries.scores("logit")

    def cost(self, head: Head, shape: MapShape) -> Cost:
        if not head.has_class_maps:
            raise MethodError(f"needs a linear layer behind global pooling; this head is {head.kind}")
        passes, why = head.class_map_passes()
        return Cost(passes, 0, why)


@dataclass(frozen=True, kw_only=True)
class ActivationCAM(Method):
    """Activation-CAM: the plain sum of the activation's channels, the same for every class.

    "Pixab-CAM: Attend Pixel, not Channel" (section on dependence on activations): L = Σ_k A_k.
    """

    name: ClassVar[str] = "activation"
    no_contrast: ClassVar[str] = SAME_FOR_EVERY_CLASS

    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        xp = library(queries.activations)
        summed = xp.sum(queries.activations, axis=1)
        return repeat(summed[:, None], queries.targets.shape[1], axis=1), queries.scores("logit")

    def cost(self, head: Head, shape: MapShape) -> Cost:
        return Cost(0, 0, "a sum over channels")
