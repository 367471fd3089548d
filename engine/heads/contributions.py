"""What each cell, and each channel, contributes to the answer of a factored head's first layer.

With φ acting on cells, the first layer of ψ answers z = bias + Σ_cells W_cell · φ(A)_cell, where W_cell is
W/cells for a mean, W for a sum, and a slice of W for a flattened map. A cell set to zero still sends φ(0), so
its *contribution* is c_cell = W_cell · (φ(A)_cell − φ(0)_cell): deleting a box subtracts the box's sum of c
from z, and keeping only the box adds it to z(0). A channel's contribution is the same sum over one channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from camrt.engine.backends import Runner
from camrt.engine.heads.base import Asked
from camrt.export.cutting import PHI
from camrt.export.factoring import Factors
from camrt.kernels.partial_products import partial_products

__all__ = ["Contributions"]

Array = npt.NDArray[Any]


class Contributions:
    """Contributions to the first layer of ψ.

    Args:
        factors: The head's factors.
        phi: Graph A -> φ(A); None when φ is the identity.
        mix: Graph that applies a pooled head's first layer to every cell
            (`camrt.export.factoring.cell_layer`): the runtime multiplies matrices faster than NumPy. None
            when that layer is the identity, or when the head is flattened.
        threads: Threads of the native kernels; None lets them choose.
    """

    def __init__(self, factors: Factors, phi: Runner | None, mix: Runner | None, threads: int | None) -> None:
        self.factors = factors
        self.features = len(factors.bias)
        self._phi = phi
        self.threads = threads
        self._silent: dict[tuple[int, ...], Array] = {}
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
        if self._phi is None:
            return np.zeros(shape, np.float32)
        if shape not in self._silent:
            self._silent[shape] = self._phi(np.zeros((1, *shape), np.float32))[0][0]
        return self._silent[shape]

    def empty(self, shape: tuple[int, ...]) -> Array:
        """z(0), (F,): the first layer's answer to an all-zero activation of shape (K, h, w)."""
        bias, cells = self.factors.bias, (shape[1], shape[2])
        if self._phi is None:
            each = self.factors.cell_bias
            return bias if each is None else bias + self.factors.cells(cells) * each
        silent = self.silent(shape)
        weight = self.factors.weight
        if not self.pooled:
            assert weight is not None
            answer: Array = bias + np.tensordot(weight, silent, 3)
            return answer.astype(np.float32)
        summed = silent.sum(axis=(1, 2), dtype=np.float64) * self.factors.scale(cells)
        mixed: Array = summed if weight is None else weight @ summed
        return np.asarray(bias + mixed, np.float32)

    def of_cells(self, difference: Array, cells: tuple[int, int]) -> Array:
        """Contributions (N, h, w, F) of every cell of the activation's own h×w grid."""
        count, channels, height, width = difference.shape
        if not self.pooled:
            weight = self.factors.weight
            assert weight is not None
            products = partial_products(
                weight.reshape(self.features, channels, -1),
                difference.reshape(count, channels, -1),
                by="cell",
                threads=self.threads,
            )
            whole = products.reshape(count, height, width, self.features)
            return interior(whole.transpose(0, 3, 1, 2), cells).transpose(0, 2, 3, 1)
        scaled = interior(difference, cells) * self.factors.scale(cells)
        if self._mix is None:
            return np.ascontiguousarray(scaled.transpose(0, 2, 3, 1))
        return self._mix(scaled)[0]

    def of_targets(self, difference: Array, cells: tuple[int, int], targets: Array) -> Array:
        """Contributions (N, h, w, T) to the target features alone; the same numbers as `of_cells` has."""
        if not self.pooled:
            everything = self.of_cells(difference, cells)
            return np.take_along_axis(everything, targets[:, None, None, :], axis=3)
        inner = interior(difference, cells)
        flat = inner.reshape(*inner.shape[:2], -1)
        maps = self.mixed(flat, targets) * self.factors.scale(cells)
        return np.ascontiguousarray(maps.transpose(0, 2, 1)).reshape(len(maps), *cells, -1)

    def mixed(self, flat: Array, targets: Array) -> Array:
        """W[targets] · u: (N, T, cells) of u (N, K', cells), for a pooled head."""
        weight = self.factors.weight
        if weight is None:
            return np.take_along_axis(flat, targets[:, :, None], axis=1)
        mixed: Array = weight[targets] @ flat
        return mixed

    def pooled_channels(self, difference: Array, cells: tuple[int, int]) -> Array:
        """P(φ(A)) − P(φ(0)), (N, K'), for a pooled head."""
        summed: Array = difference.sum(axis=(2, 3)) * self.factors.scale(cells)
        return summed

    def of_channels(self, difference: Array) -> Array:
        """Contributions (N, K', F) of every channel, for a flattened head."""
        weight = self.factors.weight
        assert weight is not None
        count, channels = difference.shape[:2]
        return partial_products(
            weight.reshape(self.features, channels, -1),
            difference.reshape(count, channels, -1),
            by="channel",
            threads=self.threads,
        )


def interior(maps: Array, cells: tuple[int, int]) -> Array:
    """The (h, w) centre of maps (..., h', w'): what is left without the border φ added."""
    top, left = ((outer - inner) // 2 for outer, inner in zip(maps.shape[-2:], cells, strict=True))
    return maps[..., top : top + cells[0], left : left + cells[1]]
