"""The Grad-CAM family: maps from the gradient G of the score with respect to the activation A.

G comes from the head: its weight where it is one linear layer, else its adjoint. `S_k` is Σ_ij A_kij.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from camrt.engine.arrays import clip_min, is_constant_over_cells, library, reserve_for, safe_divide
from camrt.engine.heads import Head
from camrt.engine.methods.base import ChannelMethod, Cost, MapShape, Method, weighted_sum
from camrt.engine.queries import HeadQueries, Need
from camrt.engine.scores import ScoreKind

__all__ = ["GradCAM", "GradCAMElementWise", "GradCAMPlusPlus", "HiResCAM", "LayerCAM", "XGradCAM"]

Array = Any


@dataclass(frozen=True, kw_only=True)
class GradientMethod(Method):
    """What the family shares.

    Attributes:
        score: What is differentiated: the logit, or the probability.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS})

    score: ScoreKind = "logit"

    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        maps = [self.map(gradient, queries.activations) for gradient in queries.gradients(self.score)]
        return library(*maps).stack(maps, axis=1), queries.scores(self.score)

    @abstractmethod
    def map(self, gradient: Array, activations: Array) -> Array:
        """Maps (N, h, w) of a gradient and an activation (N, K, h, w)."""

    def weighted_activations(self, queries: HeadQueries) -> tuple[Iterator[Array], Array]:
        products = (self.product(gradient, queries.activations) for gradient in queries.gradients(self.score))
        return products, queries.scores(self.score)

    def product(self, gradient: Array, activations: Array) -> Array:
        """What a map that `sums_channels` is the sum of, (N, K, h, w), of a gradient and an activation."""
        raise NotImplementedError

    def cost(self, head: Head, shape: MapShape) -> Cost:
        passes, why = head.gradient_passes()
        return Cost(0, 0, why, head_adjoint=passes)


@dataclass(frozen=True, kw_only=True)
class GradientChannelMethod(GradientMethod, ChannelMethod):
    """A method that makes one weight a channel of its gradient."""

    def weights(self, queries: HeadQueries) -> tuple[Array, Array]:
        found = [
            self.channel_weights(gradient, queries.activations) for gradient in queries.gradients(self.score)
        ]
        return library(*found).stack(found, axis=1), queries.scores(self.score)

    def map(self, gradient: Array, activations: Array) -> Array:
        return weighted_map(self.channel_weights(gradient, activations), activations)

    def product(self, gradient: Array, activations: Array) -> Array:
        return self.channel_weights(gradient, activations)[:, :, None, None] * activations

    @abstractmethod
    def channel_weights(self, gradient: Array, activations: Array) -> Array:
        """α (N, K) of a gradient and an activation (N, K, h, w)."""


def gradient_is_constant(method: Method, head: Head) -> bool:
    """Whether a method's score has the same gradient whatever the image: a logit of one linear layer."""
    linear = getattr(method, "score", None) == "logit" and method.contrast != "similar-weighted"
    return linear and head.gradient_passes()[0] == 0


def mean_over_cells(gradient: Array) -> Array:
    """The means (N, K) of a gradient (N, K, h, w)."""
    if is_constant_over_cells(gradient):
        return gradient[:, :, 0, 0]
    return library(gradient).mean(gradient, axis=(2, 3))


def weighted_map(weights: Array, activations: Array) -> Array:
    """Σ_k weights[n, k] · activations[n, k]: (N, h, w)."""
    return weighted_sum(weights[:, None], activations)[:, 0]


@dataclass(frozen=True, kw_only=True)
class GradCAM(GradientChannelMethod):
    """Grad-CAM: channels weighted by their mean gradient.

    "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (Selvaraju et al., ICCV
    2017, equations 1 and 2): α_k = mean_ij G_kij, L = Σ_k α_k·A_k.
    """

    name: ClassVar[str] = "gradcam"

    def channel_weights(self, gradient: Array, activations: Array) -> Array:
        return mean_over_cells(gradient)


@dataclass(frozen=True, kw_only=True)
class GradCAMPlusPlus(GradientChannelMethod):
    """Grad-CAM++: channels weighted by their positive gradients, each by what it explains.

    "Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep Convolutional Networks" (Chattopadhay
    et al., WACV 2018, equations 5 and 19): α_k = Σ_ij w_kij·relu(G_kij), w = G²/(2·G² + S_k·G³). The powers
    stand for the second and third derivatives of exp(score) behind a piecewise linear network. Where G is
    zero, or the denominator, w is zero.

    Attributes:
        definition: "paper", or "grad-cam" as the pytorch-grad-cam package has it, with 1e-6 added to the
            denominator, which rules where gradients are small.
        normalise_alpha: As the authors' code does, w is divided by its sum over the positions whose gradient
            is positive, and a denominator of zero, of either fraction, is taken for one.
    """

    name: ClassVar[str] = "gradcam++"

    definition: Literal["paper", "grad-cam"] = "paper"
    normalise_alpha: bool = False

    def channel_weights(self, gradient: Array, activations: Array) -> Array:
        if is_constant_over_cells(gradient):
            cells = gradient.shape[2] * gradient.shape[3]
            positions = gradient[:, :, :1, :1]
        else:
            cells, positions = 1, gradient
        xp = library(gradient, activations)
        g = xp.astype(positions, xp.float64)
        total = xp.sum(activations, axis=(2, 3), dtype=xp.float64)[:, :, None, None]
        shares = self._shares(g, total)
        rising = clip_min(g, 0.0)
        if self.normalise_alpha:
            risen = xp.where(g > 0, shares, xp.zeros_like(shares))
            whole = xp.sum(risen, axis=(2, 3), keepdims=True) * cells
            shares = shares / xp.where(whole != 0, whole, xp.ones_like(whole))
        return xp.sum(shares * rising, axis=(2, 3)) * cells

    def _shares(self, g: Array, total: Array) -> Array:
        """The positions' weights w."""
        if self.definition == "grad-cam":
            square = g * g
            return square / (2.0 * square + total * square * g + 1e-6)
        xp = library(g, total)
        below = 2.0 + total * g  # the fraction with G² divided out, so that small gradients stay exact
        shares = safe_divide(xp.ones_like(below), below, (below != 0) & (g != 0))
        return xp.where(below == 0, g * g, shares) if self.normalise_alpha else shares


@dataclass(frozen=True, kw_only=True)
class XGradCAM(GradientChannelMethod):
    """XGrad-CAM: channels weighted by their gradients, averaged with the activation as weight.

    "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs" (Fu et al., BMVC 2020,
    equation 8): α_k = Σ_ij G_kij·A_kij/S_k, and zero where S_k is.
    """

    name: ClassVar[str] = "xgradcam"

    def channel_weights(self, gradient: Array, activations: Array) -> Array:
        xp = library(gradient, activations)
        total = xp.sum(activations, axis=(2, 3))
        if is_constant_over_cells(gradient):
            each = gradient[:, :, 0, 0]
            return xp.where(total != 0, each, xp.zeros_like(each))
        weights = xp.einsum("nkij,nkij->nk", gradient, activations)
        return safe_divide(weights, total, total != 0)


@dataclass(frozen=True, kw_only=True)
class HiResCAM(GradientMethod):
    """HiResCAM: every place of every channel weighted by its own gradient.

    "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural networks" (Draelos and
    Carin, 2020): L = Σ_k G_k ∘ A_k. Behind it a piecewise linear network without biases gives Σ_ij L = logit.
    """

    name: ClassVar[str] = "hirescam"
    sums_channels: ClassVar[bool] = True

    def map(self, gradient: Array, activations: Array) -> Array:
        return gradient_product_map(gradient, activations)

    def product(self, gradient: Array, activations: Array) -> Array:
        return gradient * activations


@dataclass(frozen=True, kw_only=True)
class LayerCAM(GradientMethod):
    """LayerCAM: every place of every channel weighted by its own gradient where that is positive.

    "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization" (Jiang et al., TIP 2021,
    equations 5 to 7): L = Σ_k relu(G_k) ∘ A_k.
    """

    name: ClassVar[str] = "layercam"
    sums_channels: ClassVar[bool] = True

    def map(self, gradient: Array, activations: Array) -> Array:
        if is_constant_over_cells(gradient):
            return weighted_map(clip_min(gradient[:, :, 0, 0], 0.0), activations)
        return gradient_product_map(clip_min(gradient, 0.0), activations)

    def product(self, gradient: Array, activations: Array) -> Array:
        return clip_min(gradient, 0.0) * activations


@dataclass(frozen=True, kw_only=True)
class GradCAMElementWise(GradientMethod):
    """Grad-CAM of elements: every product of gradient and activation is rectified before the sum.

    The pytorch-grad-cam package's: L = Σ_k relu(G_k ∘ A_k).
    """

    name: ClassVar[str] = "gradcam-elementwise"
    sums_channels: ClassVar[bool] = True

    def map(self, gradient: Array, activations: Array) -> Array:
        reserve_for((2, *activations.shape), activations, "products of gradient and activation", itemsize=4)
        return library(gradient, activations).sum(self.product(gradient, activations), axis=1)

    def product(self, gradient: Array, activations: Array) -> Array:
        return clip_min(gradient * activations, 0.0)


def gradient_product_map(gradient: Array, activations: Array) -> Array:
    """Σ_k G_k ∘ A_k: (N, h, w)."""
    if is_constant_over_cells(gradient):
        return weighted_map(gradient[:, :, 0, 0], activations)
    return library(gradient, activations).einsum("nkij,nkij->nij", gradient, activations)
