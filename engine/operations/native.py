"""Operations on arrays of NumPy, by the native kernels."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from camrt.errors import MemoryLimitError
from camrt.export.budget import reserve_array
from camrt.kernels.ablate import ablate_boxes, ablate_channels
from camrt.kernels.box_probabilities import box_probabilities_pair
from camrt.kernels.box_scores import box_scores
from camrt.kernels.box_sums import box_sums
from camrt.kernels.masked_batch import masked_batch
from camrt.kernels.partial_products import partial_products
from camrt.kernels.rank_one import rank_one
from camrt.kernels.saliency import saliency

__all__ = ["Native", "NativeFirstLayerBoxes"]

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]


class NativeFirstLayerBoxes:
    """See `camrt.engine.operations.BoxRows`; all boxes are summed once.

    Args:
        sums: (N, P, F) of every box.
    """

    def __init__(self, sums: Array) -> None:
        self._sums = sums

    def changed_pairs(self) -> tuple[Indices, Indices]:
        """See `BoxRows`."""
        batch_index, box = np.nonzero((self._sums != 0).any(axis=2))
        return batch_index, box

    def fill(self, start: Array, batch_index: Indices, box: Indices, out: Array, *, keep: bool) -> None:
        """See `BoxRows`."""
        np.multiply(self._sums[batch_index, box], np.float32(1 if keep else -1), out=out)
        out += start[batch_index]


class Native:
    """See `camrt.engine.operations.Operations`."""

    host_readable = True
    has_fused_box_scores = False
    out_of_memory_errors: tuple[type[Exception], ...] = (MemoryLimitError,)

    def release_memory(self) -> None:
        """See `Operations`: none is held."""

    def ablate_channels(
        self, activations: Array, batch_index: Indices, channel: Indices, out: Array, threads: int | None
    ) -> None:
        """See `Operations`."""
        ablate_channels(activations, batch_index, channel, out, threads=threads)

    def ablate_boxes(
        self,
        activations: Array,
        batch_index: Indices,
        boxes: Indices,
        out: Array,
        *,
        keep: bool,
        threads: int | None,
    ) -> None:
        """See `Operations`."""
        ablate_boxes(activations, batch_index, boxes, out, keep=keep, threads=threads)

    def masked_batch(
        self,
        activations: Array,
        images: Array,
        batch_index: Indices,
        channel: Indices,
        out: Array,
        *,
        order: Literal["upsample-first", "normalise-first"],
        align_corners: bool,
        epsilon: float,
        threads: int | None,
    ) -> None:
        """See `Operations`."""
        masked_batch(
            activations,
            images,
            batch_index,
            channel,
            out,
            order=order,
            align_corners=align_corners,
            epsilon=epsilon,
            threads=threads,
        )

    def rank_one(
        self,
        base: Array,
        weight: Array,
        activations: Array,
        batch_index: Indices,
        channel: Indices,
        out: Array,
        threads: int | None,
    ) -> None:
        """See `Operations`."""
        rank_one(base, weight, activations, batch_index, channel, out, threads=threads)

    def partial_products(
        self, weight: Array, u: Array, *, by: Literal["cell", "channel"], threads: int | None
    ) -> Array:
        """See `Operations`."""
        kept = u.shape[1 if by == "channel" else 2]
        reserve_array((len(u), kept, len(weight)), "contributions", itemsize=weight.itemsize)
        return partial_products(weight, u, by=by, threads=threads)

    def pack_weight(self, weight: Array) -> Array:
        """See `Operations`."""
        return weight

    def matmul_packed(self, rows: Array, weight: Array) -> Array:
        """See `Operations`."""
        found: Array = rows @ weight.reshape(len(weight), -1)
        return found.reshape(len(rows), *weight.shape[1:])

    def box_sums(self, cells: Array, boxes: Indices, threads: int | None) -> Array:
        """See `Operations`."""
        reserve_array((len(cells), len(boxes), cells.shape[3]), "sums over boxes", itemsize=cells.itemsize)
        return box_sums(cells, boxes, threads=threads)

    def first_layer_boxes(self, cells: Array, boxes: Indices, threads: int | None) -> NativeFirstLayerBoxes:
        """See `Operations`."""
        return NativeFirstLayerBoxes(self.box_sums(cells, boxes, threads))

    def first_layer_channels(
        self, start: Array, products: Array, batch_index: Indices, channel: Indices, out: Array
    ) -> None:
        """See `Operations`."""
        np.subtract(start[batch_index], products[batch_index, channel], out=out)

    def box_probabilities(
        self,
        cells: Array,
        logits: Array,
        nothing: Array,
        boxes: Indices,
        targets: Indices,
        threads: int | None,
    ) -> tuple[Array, Array]:
        """See `Operations`."""
        reserve_array((2, len(cells), len(boxes), targets.shape[1]), "boxes' scores", itemsize=8)
        return box_probabilities_pair(cells, logits, nothing, boxes, targets, threads=threads)

    def box_scores(
        self,
        features: Array,
        weight: Array,
        logits: Array,
        nothing: Array,
        boxes: Indices,
        targets: Indices,
        *,
        scale: float,
        threads: int | None,
    ) -> tuple[Array, Array]:
        """See `Operations`."""
        reserve_array((2, len(features), len(boxes), targets.shape[1]), "boxes' scores", itemsize=8)
        return box_scores(features, weight, logits, nothing, boxes, targets, scale=scale, threads=threads)

    def saliency(
        self,
        raw: Array,
        size: tuple[int, int],
        *,
        mode: Literal["native", "library"],
        normalisation: Literal["max", "minmax"],
        relu: bool,
        threads: int | None,
    ) -> tuple[Array, Array]:
        """See `Operations`."""
        reserve_array((len(raw), *size), "maps")
        return saliency(
            np.ascontiguousarray(raw, np.float32),
            size,
            mode=mode,
            normalisation=normalisation,
            relu=relu,
            threads=threads,
        )
