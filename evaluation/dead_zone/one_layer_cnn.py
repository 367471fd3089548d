"""The one-layer CNN of "CAM-Based Methods Can See through Walls", and its Grad-CAM in closed form.

Section 3 of the paper (ECML-PKDD 2024; specification D1). The network is

    ξ (H, W) → A_v = ξ ⋆ F_v (h, w) → B_v = relu(A_v) → C_v = k'×k' max-pool (h', w') → W_1, relu, …, W_L

without biases. Where the dense weights of the lower rows of every C_v are zero, nothing there reaches the
output, and still the coefficient α_v of Grad-CAM, a mean over all places, multiplies B_v at every place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import numpy as np
import numpy.typing as npt

from camrt.errors import InputError

__all__ = ["OneLayerCNN"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class OneLayerCNN:
    """One convolution, rectifier, max-pool and L dense layers with rectifiers between them; no biases.

    Attributes:
        filters: F (V, k, k), applied as a cross-correlation without padding.
        pool: k', side and stride of the max-pool; it divides h = H − k + 1 and w = W − k + 1.
        weights: W_1 (n_1, V·h'·w'), ..., W_L (outputs, n_{L−1}). The columns of W_1 are those of the
            flattened C (V, h', w').
        size: (H, W) of the input.

    Raises:
        InputError: Shapes that do not fit one another, or numbers that are not finite.
    """

    filters: Array
    pool: int
    weights: tuple[Array, ...]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        filters = to_float64("filters", self.filters)
        weights = tuple(
            to_float64(f"weights[{number}]", matrix) for number, matrix in enumerate(self.weights)
        )
        if filters.ndim != 3 or filters.shape[1] != filters.shape[2] or 0 in filters.shape:
            raise InputError(f"filters must be (V, k, k), not {filters.shape}")
        object.__setattr__(self, "filters", filters)
        object.__setattr__(self, "weights", weights)
        pooled = pooled_size(self.size, filters.shape[1], self.pool)
        inputs = len(filters) * math.prod(pooled)
        if not weights:
            raise InputError("there must be at least one dense layer")
        for number, matrix in enumerate(weights):
            if matrix.ndim != 2 or matrix.shape[1] != inputs:
                raise InputError(
                    f"weights[{number}] must be (any, {inputs}), the outputs of the layer before; it is "
                    f"{matrix.shape}"
                )
            inputs = matrix.shape[0]

    @classmethod
    def random(
        cls,
        size: tuple[int, int],
        V: int,
        k: int,
        pool: int,
        widths: tuple[int, ...] = (1,),
        *,
        tau: float = 1.0,
        seed: int = 0,
    ) -> Self:
        """A network whose filters and weights are independent N(0, τ²).

        That of the paper's figures on MNIST, padded to 29×29, is `drawn((29, 29), 256, 2, 2, (10,))` with
        `mask_lower(7)`.

        Args:
            size: (H, W) of the input.
            V: Filters.
            k: Their side.
            pool: k'.
            widths: Outputs of each dense layer; the last are the network's.
            tau: τ.
            seed: Of the draw.

        Raises:
            InputError: Sizes that do not fit.
        """
        pooled = pooled_size(size, k, pool)
        rng = np.random.default_rng(seed)
        filters = tau * rng.standard_normal((V, k, k))
        sizes = (V * math.prod(pooled), *widths)
        weights = tuple(tau * rng.standard_normal((outputs, inputs)) for inputs, outputs in pairwise(sizes))
        return cls(filters, pool, weights, size)

    @property
    def pooled(self) -> tuple[int, int]:
        """(h', w')."""
        return pooled_size(self.size, self.filters.shape[1], self.pool)

    def mask_lower(self, rows: int) -> Self:
        """The same network with the first dense weights of the lower rows of every C_v set to zero.

        Args:
            rows: How many of the h' rows.

        Raises:
            InputError: Fewer than 0 or more than h'.
        """
        height, width = self.pooled
        if not 0 <= rows <= height:
            raise InputError(f"rows={rows} must be between 0 and the {height} rows of the pooled map")
        first = self.weights[0].reshape(-1, len(self.filters), height, width).copy()
        first[:, :, height - rows :] = 0
        return replace(self, weights=(first.reshape(self.weights[0].shape), *self.weights[1:]))

    def maps(self, xi: npt.ArrayLike) -> Array:
        """B (V, h, w), the rectified convolution of one image (H, W).

        Raises:
            InputError: An image of another size, or not finite.
        """
        patches = extract_patches(self._image(xi), self.filters.shape[1])
        return np.asarray(np.maximum(np.einsum("ijab,vab->vij", patches, self.filters), 0))

    def forward(self, xi: npt.ArrayLike) -> Array:
        """The outputs (n_L,) for one image (H, W).

        Raises:
            InputError: As `maps`.
        """
        return self._dense(self._pooled(self.maps(xi)))[0]

    def gradient(self, xi: npt.ArrayLike, target: int = 0) -> Array:
        """∂f/∂B (V, h, w) by backpropagation through the dense layers and the max-pool.

        A pooling cell passes its gradient to its largest value, of several to the first; a rectifier passes
        none at 0.

        Args:
            xi: The image (H, W).
            target: Which output f is.

        Raises:
            InputError: As `maps`, or no such output.
        """
        maps = self.maps(xi)
        cells = self._cells(maps)
        passed = self._backward(cells.max(axis=-1).ravel(), target).reshape(cells.shape[:3])
        unpooled = np.zeros_like(cells)
        np.put_along_axis(unpooled, cells.argmax(axis=-1)[..., None], passed[..., None], axis=-1)
        blocks = unpooled.reshape(len(maps), *self.pooled, self.pool, self.pool)
        return blocks.transpose(0, 1, 3, 2, 4).reshape(maps.shape)

    def grad_cam(self, xi: npt.ArrayLike, target: int = 0) -> Array:
        """Grad-CAM (Definition 1), (h, w): relu(Σ_v α_v B_v) with α_v the mean of ∂f/∂B_v over all places.

        Args:
            xi: The image (H, W).
            target: Which output is explained.

        Raises:
            InputError: As `gradient`.
        """
        alpha = self.gradient(xi, target).mean(axis=(1, 2))
        return np.asarray(np.maximum(np.einsum("v,vij->ij", alpha, self.maps(xi)), 0))

    def closed_form_weights(self, xi: npt.ArrayLike, target: int = 0) -> Array:
        """α (V,) by Proposition 2, without going back through the max-pool.

        α_v = Σ J_v / (h w), where J_v is the part for map v of J = W_L D_{L−1} W_{L−1} ... D_1 W_1 and D_l
        holds 1 where the l-th pre-activation is positive. For L = 1 it does not depend on the image.

        Args:
            xi: The image (H, W).
            target: Which output is explained.

        Raises:
            InputError: As `gradient`.
        """
        cells = self._cells(self.maps(xi))
        slopes = self._backward(cells.max(axis=-1).ravel(), target).reshape(len(cells), -1)
        return np.asarray(slopes.sum(axis=1) / (slopes.shape[1] * self.pool**2))

    def difference_weights(self, xi: npt.ArrayLike, target: int = 0) -> Array:
        """α (V,) by runs of the network alone: what f gains when all of B_v grows by one small step.

        The network is piecewise linear and no pooling cell changes its winner then, so that the quotient is
        the derivative as soon as no rectifier of a dense layer switches; the step is halved until none does.

        Args:
            xi: The image (H, W).
            target: Which output is explained.

        Raises:
            InputError: As `gradient`, or a unit that is exactly 0 and switches at any step.
        """
        pooled = self._pooled(self.maps(xi))
        outputs, positive = self._dense(pooled)
        self._check_target(target)
        found = np.empty(len(self.filters))
        for number, own in enumerate(np.split(np.arange(len(pooled)), len(self.filters))):
            for halvings in range(60):
                moved, step = pooled.copy(), 0.5**halvings
                moved[own] += step
                gained, after = self._dense(moved)
                if all(np.array_equal(one, other) for one, other in zip(positive, after, strict=True)):
                    break
            else:
                raise InputError("a unit of a dense layer is exactly 0: the network has no derivative there")
            found[number] = (gained[target] - outputs[target]) / (step * len(own) * self.pool**2)
        return found

    def _pooled(self, maps: Array) -> Array:
        """C (V·h'·w',), flattened."""
        return np.asarray(self._cells(maps).max(axis=-1).ravel())

    def _dense(self, values: Array) -> tuple[Array, list[npt.NDArray[np.bool_]]]:
        """The outputs for flattened pooled maps, and which units of each layer before are positive."""
        positive = []
        for matrix in self.weights[:-1]:
            values = matrix @ values
            positive.append(values > 0)
            values = np.maximum(values, 0)
        return np.asarray(self.weights[-1] @ values), positive

    def _check_target(self, target: int) -> None:
        if not 0 <= target < len(self.weights[-1]):
            raise InputError(f"target={target} is not one of the {len(self.weights[-1])} outputs")

    def _backward(self, values: Array, target: int) -> Array:
        """J (V·h'·w',): the target's gradient with respect to the flattened pooled maps."""
        self._check_target(target)
        _, positive = self._dense(values)
        slopes: Array = self.weights[-1][target]
        for matrix, open_ in zip(self.weights[-2::-1], reversed(positive), strict=True):
            slopes = (slopes * open_) @ matrix
        return slopes

    def _cells(self, maps: Array) -> Array:
        """(V, h', w', k'·k'): the members of each pooling cell, row by row."""
        V, height, width = maps.shape
        side = self.pool
        blocks = maps.reshape(V, height // side, side, width // side, side).transpose(0, 1, 3, 2, 4)
        return blocks.reshape(V, height // side, width // side, side * side)

    def _image(self, xi: npt.ArrayLike) -> Array:
        image = to_float64("xi", xi)
        if image.shape != self.size:
            raise InputError(f"the image must be {self.size}, not {image.shape}")
        return image


def to_float64(name: str, values: npt.ArrayLike) -> Array:
    """Numbers as float64.

    Raises:
        InputError: They are not real, or not finite.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name} must be real numbers, not {array.dtype}")
    if not np.isfinite(array).all():
        raise InputError(f"{name} must be finite")
    return array.astype(np.float64)


def pooled_size(size: tuple[int, int], k: int, pool: int) -> tuple[int, int]:
    """(h', w') of an input (H, W), a filter side k and a pooling side k'.

    Raises:
        InputError: The filter does not fit, or k' does not divide h and w.
    """
    height, width = (side - k + 1 for side in size)
    if k < 1 or pool < 1 or min(height, width) < 1:
        raise InputError(f"filters of {k}×{k} and pooling cells of side {pool} do not fit an input of {size}")
    if height % pool or width % pool:
        raise InputError(f"pooling cells of side {pool} do not divide the convolution's {height}×{width}")
    return height // pool, width // pool


def check_image_size(xi: npt.ArrayLike) -> tuple[int, int]:
    """(H, W) of an image.

    Raises:
        InputError: It has not two axes.
    """
    shape = np.shape(xi)
    if len(shape) != 2:
        raise InputError(f"an image must be (H, W), not {shape}")
    return shape


def extract_patches(xi: Array, k: int) -> Array:
    """(h, w, k, k): the patch of the image (H, W) under each place of its convolution."""
    return np.lib.stride_tricks.sliding_window_view(xi, (k, k))
