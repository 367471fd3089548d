"""What each cell, and each channel, contributes to the answer of a factored head's first layer.

With φ acting on cells, the first layer of ψ answers z = bias + Σ_cells W_cell · φ(A)_cell, where W_cell is
W/cells for a mean, W for a sum, and a slice of W for a flattened map. A cell set to zero still sends φ(0), so
its *contribution* is c_cell = W_cell · (φ(A)_cell − φ(0)_cell): deleting a box subtracts the box's sum of c
from z, and keeping only the box adds it to z(0). A channel's contribution is the same sum over one channel.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from camrt.engine.arrays import library, room_for, single
from camrt.engine.backends import Runner
from camrt.engine.heads.base import Asked, Boxes
from camrt.engine.operations import operations
from camrt.engine.places import HOST, Place
from camrt.export.cutting import PHI
from camrt.export.factoring import Factors
from camrt.kernels.caches import ByteCache

__all__ = ["Contributions", "interior", "of_classes"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


class Contributions:
    """Contributions to the first layer of ψ.

    Args:
        factors: The head's factors.
        phi: Graph A -> φ(A); None when φ is the identity.
        mix: Graph that applies a pooled head's first layer to every cell
            (`camrt.export.factoring.cell_layer`): the runtime multiplies matrices faster than NumPy. None
            when that layer is the identity, or when the head is flattened.
        threads: Threads of the native kernels; None lets them choose.
        place: Where the head's arrays lie; the factors are brought there.
        narrow: The half type that activations and weights were rounded to; None for float32.
    """

    def __init__(
        self,
        factors: Factors,
        phi: Runner | None,
        mix: Runner | None,
        threads: int | None,
        place: Place = HOST,
        narrow: Any = None,
    ) -> None:
        self.factors = replace(
            factors,
            weight=None if factors.weight is None else place.put(factors.weight),
            bias=place.put(factors.bias),
            cell_bias=None if factors.cell_bias is None else place.put(factors.cell_bias),
        )
        self._place = place
        self.narrow = narrow
        if factors.reduction == "flatten":
            weight = self.factors.weight
            assert weight is not None
            flat = operations(weight).laid_out(weight.reshape(*weight.shape[:2], -1))
            self.factors = replace(self.factors, weight=flat.reshape(weight.shape))
        self.features = len(factors.bias)
        self._phi = phi
        self.threads = threads
        self._silent: ByteCache[Array] = ByteCache()
        self._empty: ByteCache[Array] = ByteCache()
        self._mix = mix

    @property
    def pooled(self) -> bool:
        """Whether every cell meets the same weights."""
        return self.factors.reduction != "flatten"

    def difference(self, asked: Asked) -> Array:
        """φ(A) − φ(0), (N, K', h', w'), a border that φ adds included."""
        if self._phi is None:
            return asked.activations
        return asked.extras[PHI] - self.silent(asked.activations.shape[1:])

    def silent(self, shape: tuple[int, ...]) -> Array:
        """φ(0), (K', h', w'), of an activation of shape (K, h, w)."""

        def find() -> Array:
            nothing = self._place.put(np.zeros((1, *shape), np.float32))
            return (nothing if self._phi is None else self._phi(nothing)[0])[0]

        return self._silent.get(shape, find)

    def empty(self, shape: tuple[int, ...]) -> Array:
        """z(0), (F,): the first layer's answer to an all-zero activation of shape (K, h, w)."""
        return self._empty.get(shape, lambda: self._find_empty(shape))

    def _find_empty(self, shape: tuple[int, ...]) -> Array:
        bias, cells = self.factors.bias, (shape[1], shape[2])
        if self._phi is None:
            each = self.factors.cell_bias
            return bias if each is None else bias + self.factors.cells(cells) * each
        silent = self.silent(shape)
        weight = self.factors.weight
        xp = library(silent)
        if not self.pooled:
            assert weight is not None
            return single(bias + xp.tensordot(weight, silent, axes=3))
        summed = xp.sum(silent, axis=(1, 2), dtype=xp.float64) * self.factors.scale(cells)
        mixed = summed if weight is None else xp.astype(weight, xp.float64) @ summed
        return single(bias + mixed)

    def of_cells(self, difference: Array, cells: tuple[int, int]) -> Array:
        """Contributions (N, h, w, F) of every cell of the activation's own h×w grid."""
        count, channels, height, width = difference.shape
        if not self.pooled:
            weight = self.factors.weight
            assert weight is not None
            products = operations(difference).partial_products(
                weight.reshape(self.features, channels, -1),
                difference.reshape(count, channels, -1),
                by="cell",
                threads=self.threads,
            )
            whole = products.reshape(count, height, width, self.features)
            top, left = border((height, width), cells)
            return whole[:, top : top + cells[0], left : left + cells[1]]
        scaled = interior(difference, cells) * self.factors.scale(cells)
        if self._mix is None:
            return dense(library(scaled).permute_dims(scaled, (0, 2, 3, 1)))
        return self._mix(scaled)[0]

    def fuses(self, activations: Array) -> bool:
        """Whether boxes' probabilities are found without contributions, where activations lie."""
        return self.pooled and self.factors.weight is not None and operations(activations).fuses

    def box_scores(self, asked: Asked, boxes: Boxes) -> tuple[Array, Array]:
        """Probabilities (N, P, T) with boxes deleted, and kept; see `camrt.kernels.box_scores`."""
        shape = asked.activations.shape
        cells = (shape[2], shape[3])
        features, weight = interior(self.difference(asked), cells), self.factors.weight
        empty = self.empty(shape[1:])
        xp = library(features)
        if self.narrow is not None:  # the type that both come from: tensor cores take it, and nothing is lost
            features, weight = (xp.astype(values, self.narrow) for values in (features, weight))
        return operations(features).box_scores(
            features,
            weight,
            asked.logits,
            xp.broadcast_to(empty, (shape[0], len(empty))),
            boxes,
            asked.reader.targets,
            scale=self.factors.scale(cells),
            threads=self.threads,
        )

    def of_targets(self, difference: Array, cells: tuple[int, int], targets: Array) -> Array:
        """Contributions (N, h, w, T) to the target features alone; the same numbers as `of_cells` has."""
        if not self.pooled:
            return of_classes(self.of_cells(difference, cells), targets)
        inner = interior(difference, cells)
        flat = inner.reshape(*inner.shape[:2], -1)
        maps = self.mixed(flat, targets) * self.factors.scale(cells)
        return dense(library(maps).permute_dims(maps, (0, 2, 1))).reshape(len(maps), *cells, -1)

    def mixed(self, flat: Array, targets: Array) -> Array:
        """W[targets] · u: (N, T, cells) of u (N, K', cells), for a pooled head."""
        weight = self.factors.weight
        if weight is None:
            return library(flat).take_along_axis(flat, targets[:, :, None], axis=1)
        room_for((*targets.shape, flat.shape[1] + flat.shape[2]), flat, "targets' maps", itemsize=4)
        return weight[targets] @ flat

    def pooled_channels(self, difference: Array, cells: tuple[int, int]) -> Array:
        """P(φ(A)) − P(φ(0)), (N, K'), for a pooled head."""
        return library(difference).sum(difference, axis=(2, 3)) * self.factors.scale(cells)

    def of_channels(self, difference: Array) -> Array:
        """Contributions (N, K', F) of every channel, for a flattened head."""
        weight = self.factors.weight
        assert weight is not None
        count, channels = difference.shape[:2]
        return operations(difference).partial_products(
            weight.reshape(self.features, channels, -1),
            difference.reshape(count, channels, -1),
            by="channel",
            threads=self.threads,
        )


def border(outer: tuple[int, ...], cells: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns that φ added above and to the left of the (h, w) cells of a grid (h', w')."""
    return (outer[0] - cells[0]) // 2, (outer[1] - cells[1]) // 2


def interior(maps: Array, cells: tuple[int, int]) -> Array:
    """The (h, w) centre of maps (..., h', w'): what is left without the border φ added."""
    top, left = border(maps.shape[-2:], cells)
    return maps[..., top : top + cells[0], left : left + cells[1]]


def of_classes(cells: Array, classes: Array) -> Array:
    """The columns `classes` (N, T) of cells (N, h, w, F): (N, h, w, T)."""
    return library(cells).take_along_axis(cells, classes[:, None, None, :], axis=3)


def dense(array: Array) -> Array:
    """The numbers row by row in memory."""
    return array.contiguous() if hasattr(array, "contiguous") else np.ascontiguousarray(array)
