"""Eigen-CAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from camrt.engine.heads import Head
from camrt.engine.methods.base import Cost, MapShape, Method
from camrt.engine.questions import Questions

__all__ = ["EigenCAM"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class EigenCAM(Method):
    """Eigen-CAM: the activation projected on its first principal direction, the same for every class.

    "Eigen-CAM: Class Activation Map using Principal Components" (Muhammad and Yeasin, IJCNN 2020). With the
    cells as rows, M (h·w, K) = U S Vᵀ; the map is M·v₁ = s₁·u₁.

    Attributes:
        centred: Whether each channel's mean over the cells is taken off first. A singular vector's sign is
            arbitrary. Centred, it is chosen so that the map's entry of largest magnitude is positive;
            uncentred, so that the map's sum is not negative.
    """

    name: ClassVar[str] = "eigen"

    centred: bool = True

    def raw(self, ask: Questions) -> tuple[Array, Array]:
        maps = np.stack([self._one(activation) for activation in ask.activations])
        return np.repeat(maps[:, None], ask.targets.shape[1], axis=1), ask.scores("logit")

    def _one(self, activation: Array) -> Array:
        cells = activation.reshape(len(activation), -1).T.astype(np.float64)
        if not np.isfinite(cells).all():
            return np.full(activation.shape[1:], np.nan, np.float32)
        if self.centred:
            cells = cells - cells.mean(axis=0)
        # The smaller Gram matrix holds the same leading direction.
        if cells.shape[0] <= cells.shape[1]:
            values, vectors = np.linalg.eigh(cells @ cells.T)
            projected = vectors[:, -1] * np.sqrt(max(values[-1], 0.0))
        else:
            projected = cells @ np.linalg.eigh(cells.T @ cells)[1][:, -1]
        leading = projected[np.argmax(np.abs(projected))] if self.centred else projected.sum()
        oriented = projected if leading >= 0 else -projected
        return np.asarray(oriented.reshape(activation.shape[1:]), np.float32)

    def cost(self, head: Head, shape: MapShape) -> Cost:
        return Cost(0, 0, "an eigenvector")
