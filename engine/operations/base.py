"""The operations that every place has."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["FirstLayerBoxes", "Operations"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
Boxes = npt.NDArray[np.int64]  # (P, 4), known to the host


class FirstLayerBoxes(Protocol):
    """Answers of a linear layer with each of some boxes of its input deleted, or kept alone."""

    def changed_pairs(self) -> tuple[Array, Array]:
        """Image and box of all answers that differ from those without a box, and perhaps of others."""
        ...

    def fill(self, start: Array, batch_index: Array, box: Array, out: Array, *, keep: bool) -> None:
        """Writes out[b]: start[n], n = batch_index[b], minus, or with keep plus, what box[b] adds there."""
        ...


class Operations(Protocol):
    """Kernels for arrays of one kind; see `camrt.kernels` for what each computes.

    Attributes:
        host_readable: Whether values can be looked at without waiting for a device.
        has_fused_box_scores: Whether `box_scores` is one kernel that stores no contributions.
        out_of_memory_errors: What is raised where memory is short, and may not be when less is asked for.
    """

    host_readable: bool
    has_fused_box_scores: bool
    out_of_memory_errors: tuple[type[Exception], ...]

    def release_memory(self) -> None:
        """Gives back memory that is held for later."""
        ...

    def ablate_channels(
        self, activations: Array, batch_index: Array, channel: Array, out: Array, threads: int | None
    ) -> None:
        """Activations without a channel each; see `camrt.kernels.ablate`."""
        ...

    def ablate_boxes(
        self,
        activations: Array,
        batch_index: Array,
        boxes: Array,
        out: Array,
        *,
        keep: bool,
        threads: int | None,
    ) -> None:
        """Activations without, or with nothing but, a box (B, 4) each; see `camrt.kernels.ablate`."""
        ...

    def masked_batch(
        self,
        activations: Array,
        images: Array,
        batch_index: Array,
        channel: Array,
        out: Array,
        *,
        order: Literal["upsample-first", "normalise-first"],
        align_corners: bool,
        epsilon: float,
        threads: int | None,
    ) -> None:
        """Images under their channels; see `camrt.kernels.masked_batch`."""
        ...

    def rank_one(
        self,
        base: Array,
        weight: Array,
        activations: Array,
        batch_index: Array,
        channel: Array,
        out: Array,
        threads: int | None,
    ) -> None:
        """A pointwise layer's answers without a channel each; see `camrt.kernels.rank_one`."""
        ...

    def partial_products(
        self, weight: Array, u: Array, *, by: Literal["cell", "channel"], threads: int | None
    ) -> Array:
        """What each cell or channel adds to a layer's answer; see `camrt.kernels.partial_products`."""
        ...

    def pack_weight(self, weight: Array) -> Array:
        """A weight (F, K, L) as `partial_products` reads it fastest; the same numbers."""
        ...

    def matmul_packed(self, rows: Array, weight: Array) -> Array:
        """Σ_f rows[n, f] · weight[f, k, l], (N, K, L), of a weight that is laid out."""
        ...

    def box_sums(self, cells: Array, boxes: Boxes, threads: int | None) -> Array:
        """Sums (N, P, F) of cells (N, h, w, F) over boxes."""
        ...

    def first_layer_boxes(self, cells: Array, boxes: Boxes, threads: int | None) -> FirstLayerBoxes:
        """The answers of a layer that each cell adds (N, h, w, F) to."""
        ...

    def first_layer_channels(
        self, start: Array, products: Array, batch_index: Array, channel: Array, out: Array
    ) -> None:
        """Writes out[b] = start[n] − products[n, channel[b]], n = batch_index[b], of (N, F) and (N, K, F)."""
        ...

    def box_probabilities(
        self,
        cells: Array,
        logits: Array,
        nothing: Array,
        boxes: Boxes,
        targets: Array,
        threads: int | None,
    ) -> tuple[Array, Array]:
        """Probabilities (N, P, T) with each box deleted, and kept; see `camrt.kernels.box_probabilities`."""
        ...

    def box_scores(
        self,
        features: Array,
        weight: Array,
        logits: Array,
        nothing: Array,
        boxes: Boxes,
        targets: Array,
        *,
        scale: float,
        threads: int | None,
    ) -> tuple[Array, Array]:
        """The same from a pooled layer's features and weight; see `camrt.kernels.box_scores`."""
        ...

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
        """Maps (M, H, W) and flags (M,) of raw maps (M, h, w); see `camrt.kernels.saliency`."""
        ...
