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
SAME_MAGNITUDE = 1e-9  # entries this close, relatively, differ by rounding only


@dataclass(frozen=True, kw_only=True)
class EigenCAM(Method):
    """Eigen-CAM: the activation projected on its first principal direction, the same for every class.

    "Eigen-CAM: Class Activation Map using Principal Components" (Muhammad and Yeasin, IJCNN 2020). With the
    cells as rows, M (h·w, K) = U S Vᵀ; the map is M·v₁ = s₁·u₁.

    Attributes:
        centred: Whether each channel's mean over the cells is taken off first. A singular vector's sign is
            arbitrary. Centred, it is chosen so that the map's entry of largest magnitude, the first of equal
            ones, is positive; uncentred, so that the map's sum is not negative.
    """

    name: ClassVar[str] = "eigen"

    centred: bool = True

    def raw(self, ask: Questions) -> tuple[Array, Array]:
        maps = self._leading(ask.activations)
        return np.repeat(maps[:, None], ask.targets.shape[1], axis=1), ask.scores("logit")

    def _leading(self, activations: Array) -> Array:
        """s₁·u₁ of each activation, oriented: (N, K, h, w) -> (N, h, w)."""
        count, _, height, width = activations.shape
        cells = activations.reshape(count, -1, height * width).transpose(0, 2, 1).astype(np.float64)
        broken = ~np.isfinite(cells).all(axis=(1, 2))
        cells[broken] = 0.0
        if self.centred:
            cells -= cells[:, :1].copy()  # first, so that a constant channel becomes exactly zero
            cells -= cells.mean(axis=1, keepdims=True)
        # The smaller Gram matrix holds the same leading direction.
        if cells.shape[1] <= cells.shape[2]:
            values, vectors = np.linalg.eigh(cells @ cells.transpose(0, 2, 1))
            projected = vectors[:, :, -1] * np.sqrt(np.maximum(values[:, -1:], 0.0))
        else:
            vectors = np.linalg.eigh(cells.transpose(0, 2, 1) @ cells)[1]
            projected = (cells @ vectors[:, :, -1:])[:, :, 0]
        magnitudes = np.abs(projected)
        equal = magnitudes >= magnitudes.max(axis=1, keepdims=True) * (1 - SAME_MAGNITUDE)
        largest = equal.argmax(axis=1)[:, None]
        summed = projected.sum(axis=1, keepdims=True)
        leading = np.take_along_axis(projected, largest, axis=1) if self.centred else summed
        oriented = np.where(leading >= 0, projected, -projected)
        oriented[broken] = np.nan
        maps: Array = oriented.reshape(count, height, width).astype(np.float32)
        return maps

    def cost(self, head: Head, shape: MapShape) -> Cost:
        return Cost(0, 0, "an eigenvector")
