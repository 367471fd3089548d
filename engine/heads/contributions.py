"""What each cell, and each channel, contributes to the answer of a factored head's first layer.

With φ acting on cells, the first layer of ψ answers z = bias + Σ_cells W_cell · φ(A)_cell, where W_cell is
W/cells for a mean, W for a sum, and a slice of W for a flattened map. A cell set to zero still sends φ(0), so
its *contribution* is c_cell = W_cell · (φ(A)_cell − φ(0)_cell): deleting a box subtracts the box's sum of c
from z, and keeping only the box adds it to z(0). A channel's contribution is the same sum over one channel.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from camrt.engine.arrays import arange_like, library, reserve_for, to_float32
from camrt.engine.device import NUMPY_DEVICE, Device
from camrt.engine.heads.base import Boxes, QueryContext
from camrt.engine.runtime import Runner
from camrt.export.heads.cut import PHI
from camrt.export.heads.factoring import Factors
from camrt.kernels.box_scores import box_scores
from camrt.kernels.caches import ByteCache
from camrt.kernels.dispatch import backend_of
from camrt.kernels.partial_products import pack_weight, partial_products

__all__ = ["Contributions", "border_size", "interior", "take_classes"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


class Contributions:
    """Contributions to the first layer of ψ.

    Args:
        factors: The head's factors.
        phi: Graph A -> φ(A); None when φ is the identity.
        cell_layer: Graph that applies a pooled head's first layer to every cell
            (`camrt.export.heads.factoring.cell_layer`): the runtime multiplies matrices faster than NumPy.
            None when that layer is the identity, or when the head is flattened.
        threads: Threads of the native kernels; None lets them choose.
        device: Where the head's arrays lie; the factors are brought there.
        half_dtype: The half type that activations and weights were rounded to; None for float32.
    """

    def __init__(
        self,
        factors: Factors,
        phi: Runner | None,
        cell_layer: Runner | None,
        threads: int | None,
        device: Device = NUMPY_DEVICE,
        half_dtype: Any = None,
    ) -> None:
        self.factors = replace(
            factors,
            weight=None if factors.weight is None else device.put(factors.weight),
            bias=device.put(factors.bias),
            cell_bias=None if factors.cell_bias is None else device.put(factors.cell_bias),
        )
        self._device = device
        self.half_dtype = half_dtype
        if factors.reduction == "flatten":
            weight = self.factors.weight
            assert weight is not None
            flat = pack_weight(weight.reshape(*weight.shape[:2], -1))
            self.factors = replace(self.factors, weight=flat.reshape(weight.shape))
        self.features = len(factors.bias)
        self._phi = phi
        self.threads = threads
        self._phi_of_zero: ByteCache[Array] = ByteCache()
        self._first_layer_of_zero: ByteCache[Array] = ByteCache()
        self._mix = cell_layer

    @property
    def is_pooled(self) -> bool:
        """Whether every cell meets the same weights."""
        return self.factors.reduction != "flatten"

    def phi(self, activations: Array) -> Array | None:
        """Returns φ(A) of activations (N, K, h, w); None where φ is the identity."""
        return None if self._phi is None else self._phi(activations)[0]

    def phi_difference(self, context: QueryContext) -> Array:
        """φ(A) − φ(0), (N, K', h', w'), a border that φ adds included."""
        if self._phi is None:
            return context.activations
        return context.extras[PHI] - self.phi_of_zero(context.activations.shape[1:])

    def phi_of_zero(self, shape: tuple[int, ...]) -> Array:
        """Returns φ(0), (K', h', w'), of an activation of shape (K, h, w)."""

        def find() -> Array:
            empty = self._device.put(np.zeros((1, *shape), np.float32))
            return (empty if self._phi is None else self._phi(empty)[0])[0]

        return self._phi_of_zero.get(shape, find)

    def first_layer_of_zero(self, shape: tuple[int, ...]) -> Array:
        """z(0), (F,): the first layer's answer to an all-zero activation of shape (K, h, w)."""
        return self._first_layer_of_zero.get(shape, lambda: self._find_empty(shape))

    def _find_empty(self, shape: tuple[int, ...]) -> Array:
        bias, cells = self.factors.bias, (shape[1], shape[2])
        if self._phi is None:
            each = self.factors.cell_bias
            return bias if each is None else bias + self.factors.cells(cells) * each
        phi_of_zero = self.phi_of_zero(shape)
        weight = self.factors.weight
        xp = library(phi_of_zero)
        if not self.is_pooled:
            assert weight is not None
            return to_float32(bias + xp.tensordot(weight, phi_of_zero, axes=3))
        summed = xp.sum(phi_of_zero, axis=(1, 2), dtype=xp.float64) * self.factors.scale(cells)
        mixed = summed if weight is None else xp.astype(weight, xp.float64) @ summed
        return to_float32(bias + mixed)

    def cell_contributions(self, difference: Array, cells: tuple[int, int]) -> Array:
        """Contributions (N, h, w, F) of every cell of the activation's own h×w grid."""
        count, channels, height, width = difference.shape
        if not self.is_pooled:
            weight = self.factors.weight
            assert weight is not None
            reserve_for((count, height * width, self.features), difference, "contributions", itemsize=4)
            products = partial_products(
                weight.reshape(self.features, channels, -1),
                difference.reshape(count, channels, -1),
                by="cell",
                threads=self.threads,
            )
            whole = products.reshape(count, height, width, self.features)
            top, left = border_size((height, width), cells)
            return whole[:, top : top + cells[0], left : left + cells[1]]
        scaled = interior(difference, cells) * self.factors.scale(cells)
        if self._mix is None:
            return to_contiguous(library(scaled).permute_dims(scaled, (0, 2, 3, 1)))
        return self._mix(scaled)[0]

    def has_fused_box_scores(self, activations: Array) -> bool:
        """Whether boxes' probabilities are found without contributions, where activations lie."""
        return (
            self.is_pooled
            and self.factors.weight is not None
            and backend_of(activations) == "gpu"  # there it is one kernel
        )

    def box_scores(self, context: QueryContext, boxes: Boxes) -> tuple[Array, Array]:
        """Probabilities (N, P, T) with boxes deleted, and kept; see `camrt.kernels.box_scores`."""
        shape = context.activations.shape
        cells = (shape[2], shape[3])
        features, weight = interior(self.phi_difference(context), cells), self.factors.weight
        assert weight is not None
        empty = self.first_layer_of_zero(shape[1:])
        xp = library(features)
        if self.half_dtype is not None:  # tensor cores take the type that both come from; nothing is lost
            features, weight = (xp.astype(values, self.half_dtype) for values in (features, weight))
        targets = context.reader.targets
        reserve_for((2, shape[0], len(boxes), targets.shape[1]), features, "boxes' scores")
        return box_scores(
            features,
            weight,
            context.logits,
            xp.broadcast_to(empty, (shape[0], len(empty))),
            boxes,
            targets,
            scale=self.factors.scale(cells),
            threads=self.threads,
        )

    def target_contributions(self, difference: Array, cells: tuple[int, int], targets: Array) -> Array:
        """Contributions (N, h, w, T) to the target features alone, equal to those of `cell_contributions`."""
        if not self.is_pooled:
            return take_classes(self.cell_contributions(difference, cells), targets)
        inner = interior(difference, cells)
        flat = inner.reshape(*inner.shape[:2], -1)
        maps = self.apply_target_weights(flat, targets) * self.factors.scale(cells)
        return to_contiguous(library(maps).permute_dims(maps, (0, 2, 1))).reshape(len(maps), *cells, -1)

    def apply_target_weights(self, flat: Array, targets: Array) -> Array:
        """W[targets] · u: (N, T, cells) of u (N, K', cells), for a pooled head."""
        weight = self.factors.weight
        if weight is None:
            return library(flat).take_along_axis(flat, targets[:, :, None], axis=1)
        reserve_for((*targets.shape, flat.shape[1] + flat.shape[2]), flat, "targets' maps", itemsize=4)
        return weight[targets] @ flat

    def pooled_difference(self, difference: Array, cells: tuple[int, int]) -> Array:
        """P(φ(A)) − P(φ(0)), (N, K'), for a pooled head."""
        return library(difference).sum(difference, axis=(2, 3)) * self.factors.scale(cells)

    @cached_property
    def columns(self) -> Array:
        """The weight of a pooled head's first layer, transposed, (K', F); the unit matrix of the identity."""
        weight, features = self.factors.weight, self.features
        if weight is not None:
            return to_contiguous(weight.T)
        bias = self.factors.bias
        reserve_for((features, features), bias, "unit matrix of the channels", itemsize=8)
        every = arange_like(features, bias)
        return library(bias).astype(every[:, None] == every[None], bias.dtype)

    def channel_contributions(self, difference: Array) -> Array:
        """Contributions (N, K', F) of every channel, for a flattened head."""
        weight = self.factors.weight
        assert weight is not None
        count, channels = difference.shape[:2]
        reserve_for((count, channels, self.features), difference, "contributions", itemsize=4)
        return partial_products(
            weight.reshape(self.features, channels, -1),
            difference.reshape(count, channels, -1),
            by="channel",
            threads=self.threads,
        )


def border_size(outer: tuple[int, ...], cells: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns that φ added above and to the left of the (h, w) cells of a grid (h', w')."""
    return (outer[0] - cells[0]) // 2, (outer[1] - cells[1]) // 2


def interior(maps: Array, cells: tuple[int, int]) -> Array:
    """The (h, w) centre of maps (..., h', w'): what is left without the border φ added."""
    top, left = border_size(maps.shape[-2:], cells)
    return maps[..., top : top + cells[0], left : left + cells[1]]


def take_classes(cells: Array, classes: Array) -> Array:
    """The columns `classes` (N, T) of cells (N, h, w, F): (N, h, w, T)."""
    return library(cells).take_along_axis(cells, classes[:, None, None, :], axis=3)


def to_contiguous(array: Array) -> Array:
    """The numbers row by row in memory."""
    return array.contiguous() if hasattr(array, "contiguous") else np.ascontiguousarray(array)
