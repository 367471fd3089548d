"""Maps on a first principal direction: of the activation, of its product with a gradient, or of a kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from camrt.engine.arrays import clip_min, library, repeat, reserve_for, safe_divide
from camrt.engine.heads import Head
from camrt.engine.methods.base import SAME_FOR_EVERY_CLASS, Cost, MapShape, Method
from camrt.engine.methods.gradients import GradientMethod
from camrt.engine.queries import HeadQueries

__all__ = ["EigenCAM", "EigenGradCAM", "KernelPCACAM", "SegEigenCAM", "first_component"]

Array = Any
NO_SIGN = "a principal direction has no sign but the one it is given, and a negative score the same one"
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


def first_component(maps: Array, *, centred: bool = True) -> Array:
    """s₁·u₁ of each of some maps with their cells as rows, oriented: (N, K, h, w) -> (N, h, w).

    NaN where anything of a map is not finite.

    Args:
        maps: Any maps of K channels.
        centred: Whether each channel's mean over the cells is taken off first; see `EigenCAM`.
    """
    xp = library(maps)
    count, channels, height, width = maps.shape
    side = min(channels, height * width)
    reserve_for((count, 4 * channels * height * width + 3 * side * side), maps, "activations")
    cells, broken = cells_as_rows(maps, centred=centred)
    turned = xp.permute_dims(cells, (0, 2, 1))
    # The smaller Gram matrix holds the same leading direction.
    if height * width <= channels:
        values, vectors = xp.linalg.eigh(xp.matmul(cells, turned))
        projected = vectors[:, :, -1] * xp.sqrt(clip_min(values[:, -1:], 0.0))
    else:
        vectors = xp.linalg.eigh(xp.matmul(turned, cells))[1]
        projected = xp.matmul(cells, vectors[:, :, -1:])[:, :, 0]
    oriented = orient_by_largest(projected) if centred else orient_by_sum(projected)
    return finish(oriented, broken, (height, width))


def cells_as_rows(maps: Array, *, centred: bool) -> tuple[Array, Array]:
    """Maps (N, K, h, w) as float64 matrices (N, h·w, K); (N, 1) whether one is not finite, and zeros."""
    xp = library(maps)
    flat = xp.reshape(xp.astype(maps, xp.float64), (*maps.shape[:2], -1))
    cells = xp.permute_dims(flat, (0, 2, 1))
    broken = ~xp.all(xp.isfinite(cells), axis=(1, 2))[:, None]
    cells = xp.where(broken[:, :, None], xp.zeros_like(cells), cells)
    if centred:
        cells = cells - cells[:, :1]  # first, so that a constant channel becomes exactly zero
        cells = cells - xp.mean(cells, axis=1, keepdims=True)
    return cells, broken


def centre_both(matrix: Array) -> Array:
    """Symmetric matrices (N, L, L) less the means of their rows and of their columns, plus that of all."""
    xp = library(matrix)
    shifted = matrix - matrix[:, :1, :1]  # so that a constant matrix becomes exactly zero
    rows = xp.mean(shifted, axis=2, keepdims=True)
    return shifted - rows - xp.permute_dims(rows, (0, 2, 1)) + xp.mean(rows, axis=1, keepdims=True)


def orient_by_largest(projected: Array) -> Array:
    """Vectors (N, L) turned so that the entry of largest magnitude, the first of equal ones, is positive."""
    xp = library(projected)
    magnitudes = xp.abs(projected)
    equal = magnitudes >= xp.max(magnitudes, axis=1, keepdims=True) * (1 - MAGNITUDE_TOLERANCE)
    largest = xp.argmax(xp.astype(equal, xp.int8), axis=1, keepdims=True)
    return xp.where(xp.take_along_axis(projected, largest, axis=1) >= 0, projected, -projected)


def orient_by_sum(projected: Array) -> Array:
    """Vectors (N, L) turned so that their sum is not negative."""
    xp = library(projected)
    return xp.where(xp.sum(projected, axis=1, keepdims=True) >= 0, projected, -projected)


def finish(oriented: Array, broken: Array, cells: tuple[int, int]) -> Array:
    """Vectors (N, h·w) as float32 maps (N, h, w), NaN where they are marked."""
    xp = library(oriented)
    marked = xp.where(broken, xp.full_like(oriented, float("nan")), oriented)
    return xp.reshape(xp.astype(marked, xp.float32), (len(oriented), *cells))
