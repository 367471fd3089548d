"""Eigen-CAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from camrt.engine.arrays import clip_min, library, repeat, reserve_for
from camrt.engine.heads import Head
from camrt.engine.methods.base import SAME_FOR_EVERY_CLASS, Cost, MapShape, Method
from camrt.engine.queries import HeadQueries

__all__ = ["EigenCAM"]

Array = Any
MAGNITUDE_TOLERANCE = 1e-9  # entries this close, relatively, differ by rounding only


@dataclass(frozen=True, kw_only=True)
class EigenCAM(Method):
    """Eigen-CAM: the activation projected on its first principal direction, the same for every class.

    "Eigen-CAM: Class Activation Map using Principal Components" (Muhammad and Yeasin, IJCNN 2020). With the
    cells as rows, M (h·w, K) = U S Vᵀ; the map is M·v₁ = s₁·u₁. On a GPU torch's eigh waits for the device.

    Attributes:
        centred: Whether each channel's mean over the cells is taken off first. A singular vector's sign is
            arbitrary. Centred, it is chosen so that the map's entry of largest magnitude, the first of equal
            ones, is positive; uncentred, so that the map's sum is not negative.
    """

    name: ClassVar[str] = "eigen"
    no_contrast: ClassVar[str] = SAME_FOR_EVERY_CLASS

    centred: bool = True

    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        maps = self._leading(queries.activations)
        return repeat(maps[:, None], queries.targets.shape[1], axis=1), queries.scores("logit")

    def _leading(self, activations: Array) -> Array:
        """s₁·u₁ of each activation, oriented: (N, K, h, w) -> (N, h, w)."""
        xp = library(activations)
        count, channels, height, width = activations.shape
        side = min(channels, height * width)
        reserve_for((count, 4 * channels * height * width + 3 * side * side), activations, "activations")
        flat = xp.reshape(xp.astype(activations, xp.float64), (count, channels, height * width))
        cells = xp.permute_dims(flat, (0, 2, 1))
        broken = ~xp.all(xp.isfinite(cells), axis=(1, 2))[:, None]
        cells = xp.where(broken[:, :, None], xp.zeros_like(cells), cells)
        if self.centred:
            cells = cells - cells[:, :1]  # first, so that a constant channel becomes exactly zero
            cells = cells - xp.mean(cells, axis=1, keepdims=True)
        turned = xp.permute_dims(cells, (0, 2, 1))
        # The smaller Gram matrix holds the same leading direction.
        if height * width <= channels:
            values, vectors = xp.linalg.eigh(xp.matmul(cells, turned))
            projected = vectors[:, :, -1] * xp.sqrt(clip_min(values[:, -1:], 0.0))
        else:
            vectors = xp.linalg.eigh(xp.matmul(turned, cells))[1]
            projected = xp.matmul(cells, vectors[:, :, -1:])[:, :, 0]
        if self.centred:
            magnitudes = xp.abs(projected)
            equal = magnitudes >= xp.max(magnitudes, axis=1, keepdims=True) * (1 - MAGNITUDE_TOLERANCE)
            largest = xp.argmax(xp.astype(equal, xp.int8), axis=1, keepdims=True)
            leading = xp.take_along_axis(projected, largest, axis=1)
        else:
            leading = xp.sum(projected, axis=1, keepdims=True)
        oriented = xp.where(leading >= 0, projected, -projected)
        oriented = xp.where(broken, xp.full_like(oriented, float("nan")), oriented)
        return xp.reshape(xp.astype(oriented, xp.float32), (count, height, width))

    def cost(self, head: Head, shape: MapShape) -> Cost:
        return Cost(0, 0, "an eigenvector")
