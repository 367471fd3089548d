"""Maps on a first principal direction: of the activation, of its product with a gradient, or of a kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from camrt.engine.arrays import clip_min, library, repeat, reserve_for, safe_divide
from camrt.engine.heads import Head
from camrt.engine.methods.base import SAME_FOR_EVERY_CLASS, Cost, MapShape, Method
from camrt.engine.methods.components import (
    cells_as_rows,
    centre_both,
    finish,
    first_component,
    orient_by_largest,
)
from camrt.engine.methods.gradients import GradientMethod
from camrt.engine.queries import HeadQueries

__all__ = ["EigenCAM", "EigenGradCAM", "KernelPCACAM", "SegEigenCAM"]

Array = Any
NO_SIGN = "a principal direction has no sign but the one it is given, and a negative score the same one"


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
        maps = first_component(queries.activations, centred=self.centred)
        return repeat(maps[:, None], queries.targets.shape[1], axis=1), queries.scores("logit")

    def cost(self, head: Head, shape: MapShape) -> Cost:
        return Cost(0, 0, "an eigenvector")


@dataclass(frozen=True, kw_only=True)
class EigenGradCAM(GradientMethod):
    """Eigen-Grad-CAM: the product of gradient and activation on its first principal direction.

    The pytorch-grad-cam package's: Eigen-CAM, centred, of G ∘ A. The package leaves the sign to chance; here
    the map's entry of largest magnitude, the first of equal ones, is positive, as in Eigen-CAM.
    """

    name: ClassVar[str] = "eigengradcam"

    @property
    def no_counterfactual(self) -> str:
        return NO_SIGN

    def map(self, gradient: Array, activations: Array) -> Array:
        return first_component(gradient * activations)


@dataclass(frozen=True, kw_only=True)
class SegEigenCAM(GradientMethod):
    """Seg-Eigen-CAM: the activation times its gradient's magnitude, on its first principal direction.

    "Seg-Eigen-CAM: Eigen-Value-Based Visual Explanations for Semantic Segmentation Models" (Chung and Ying,
    Applied Sciences 2025, equations 10 to 13): Eigen-CAM, centred, of |G| ∘ A, turned round where its least
    entry is larger in magnitude than its greatest.
    """

    name: ClassVar[str] = "segeigen"

    @property
    def no_counterfactual(self) -> str:
        return NO_SIGN

    def map(self, gradient: Array, activations: Array) -> Array:
        return first_component(abs(gradient) * activations)


@dataclass(frozen=True, kw_only=True)
class KernelPCACAM(Method):
    """KPCA-CAM: the cells on the first component of a kernel PCA, the same for every class.

    "KPCA-CAM: Visual Explainability of Deep Computer Vision Models using Kernel PCA" (Karmani et al., MMSP
    2024), as the pytorch-grad-cam package and scikit-learn's `KernelPCA` compute it: with x_i the channels of
    cell i, less their mean over the cells, and the kernel's matrix K_ij = k(x_i, x_j), its rows and columns
    centred, the map is √λ₁·u₁ of the greatest eigenvalue λ₁. The sign is Eigen-CAM's. A kernel whose centred
    matrix has no positive eigenvalue gives a map of zeros. On a GPU torch's eigh waits for the device.

    Attributes:
        kernel: k(x, y): "sigmoid" tanh(γ·xᵀy + c), "rbf" exp(−γ·|x − y|²), "poly" (γ·xᵀy + c)^d, "cosine"
            xᵀy/(|x|·|y|), or "linear", which is Eigen-CAM.
        gamma: γ; None takes 1/K.
        degree: d.
        coef0: c.
    """

    name: ClassVar[str] = "kpca"
    no_contrast: ClassVar[str] = SAME_FOR_EVERY_CLASS

    kernel: Literal["sigmoid", "rbf", "poly", "cosine", "linear"] = "sigmoid"
    gamma: float | None = None
    degree: int = 3
    coef0: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("degree", 1)
        if self.gamma is not None:
            self.require_number("gamma", above=0)
        self.require_number("coef0")

    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        maps = self.component(queries.activations)
        return repeat(maps[:, None], queries.targets.shape[1], axis=1), queries.scores("logit")

    def component(self, activations: Array) -> Array:
        """√λ₁·u₁ of each activation, oriented: (N, K, h, w) -> (N, h, w)."""
        xp = library(activations)
        count, _, height, width = activations.shape
        reserve_for((count, 4, height * width, height * width), activations, "kernel between cells")
        cells, broken = cells_as_rows(activations, centred=True)
        values, vectors = xp.linalg.eigh(centre_both(self.matrix(cells)))
        found = vectors[:, :, -1] * xp.sqrt(clip_min(values[:, -1:], 0.0))
        return finish(orient_by_largest(found), broken, (height, width))

    def matrix(self, cells: Array) -> Array:
        """The kernel of every two cells: (N, h·w, K) -> (N, h·w, h·w)."""
        xp = library(cells)
        gamma = 1.0 / cells.shape[2] if self.gamma is None else self.gamma
        products = xp.matmul(cells, xp.permute_dims(cells, (0, 2, 1)))
        if self.kernel == "sigmoid":
            return xp.tanh(gamma * products + self.coef0)
        if self.kernel == "poly":
            return (gamma * products + self.coef0) ** self.degree
        if self.kernel == "linear":
            return products
        squares = xp.sum(cells * cells, axis=2)
        if self.kernel == "rbf":
            apart = clip_min(squares[:, :, None] + squares[:, None] - 2.0 * products, 0.0)
            return xp.exp(-gamma * apart)
        norms = xp.sqrt(squares)
        below = norms[:, :, None] * norms[:, None]
        return safe_divide(products, below, below > 0)

    def cost(self, head: Head, shape: MapShape) -> Cost:
        return Cost(0, 0, "an eigenvector")
