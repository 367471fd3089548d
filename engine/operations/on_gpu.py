"""Operations on tensors on a GPU, by the Triton kernels. Nothing here waits for the device."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from camrt.engine.arrays import all_index_pairs, constant_like
from camrt.errors import MemoryLimitError
from camrt.kernels.ablate.gpu import ablate_boxes, ablate_channels
from camrt.kernels.box_probabilities.gpu import box_probabilities_pair
from camrt.kernels.box_scores.gpu import box_scores
from camrt.kernels.caches import cache_by_bytes
from camrt.kernels.first_layer_difference.gpu import first_layer_boxes, first_layer_channels
from camrt.kernels.masked_batch.gpu import masked_batch
from camrt.kernels.partial_products.gpu import pack_weight, partial_products
from camrt.kernels.rank_one.gpu import rank_one
from camrt.kernels.saliency.gpu import saliency

__all__ = ["ON_GPU"]

Tensor = torch.Tensor
Boxes = npt.NDArray[np.int64]


@cache_by_bytes()
def box_masks(boxes: bytes, cells: tuple[int, int], device: torch.device) -> Tensor:
    """(P, h·w) float64: one for each cell of a box, else zero."""
    listed = np.frombuffer(boxes, np.int64).reshape(-1, 4)
    inside = np.zeros((len(listed), *cells))
    for row, (r0, c0, r1, c1) in zip(inside, listed, strict=True):
        row[r0:r1, c0:c1] = 1
    return torch.from_numpy(inside.reshape(len(listed), -1)).to(device)


class GpuFirstLayerBoxes:
    """See `camrt.engine.operations.BoxRows`; which answers differ is not looked at.

    Args:
        cells: (N, h, w, F).
        boxes: (P, 4).
    """

    def __init__(self, cells: Tensor, boxes: Boxes) -> None:
        self._cells = cells
        self._boxes = constant_like(boxes, cells)

    def changed_pairs(self) -> tuple[Tensor, Tensor]:
        """See `BoxRows`."""
        return all_index_pairs(len(self._cells), len(self._boxes), self._cells)

    def fill(self, start: Tensor, batch_index: Tensor, box: Tensor, out: Tensor, *, keep: bool) -> None:
        """See `BoxRows`."""
        first_layer_boxes(start, self._cells, batch_index, self._boxes[box], out, keep=keep)


class OnGpu:
    """See `camrt.engine.operations.Operations`."""

    host_readable = False
    has_fused_box_scores = True
    out_of_memory_errors: tuple[type[Exception], ...] = (MemoryLimitError, torch.OutOfMemoryError)

    def release_memory(self) -> None:
        """See `Operations`."""
        torch.cuda.empty_cache()

    def ablate_channels(
        self, activations: Tensor, batch_index: Tensor, channel: Tensor, out: Tensor, threads: int | None
    ) -> None:
        """See `Operations`."""
        ablate_channels(activations, batch_index, channel, out)

    def ablate_boxes(
        self,
        activations: Tensor,
        batch_index: Tensor,
        boxes: Tensor,
        out: Tensor,
        *,
        keep: bool,
        threads: int | None,
    ) -> None:
        """See `Operations`."""
        ablate_boxes(activations, batch_index, boxes, out, keep=keep)

    def masked_batch(
        self,
        activations: Tensor,
        images: Tensor,
        batch_index: Tensor,
        channel: Tensor,
        out: Tensor,
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
        )

    def rank_one(
        self,
        base: Tensor,
        weight: Tensor,
        activations: Tensor,
        batch_index: Tensor,
        channel: Tensor,
        out: Tensor,
        threads: int | None,
    ) -> None:
        """See `Operations`."""
        rank_one(base, weight, activations, batch_index, channel, out)

    def partial_products(
        self, weight: Tensor, u: Tensor, *, by: Literal["cell", "channel"], threads: int | None
    ) -> Tensor:
        """See `Operations`."""
        return partial_products(weight, u, by=by)

    def pack_weight(self, weight: Tensor) -> Tensor:
        """See `Operations`."""
        return pack_weight(weight)

    def matmul_packed(self, rows: Tensor, weight: Tensor) -> Tensor:
        """See `Operations`; the weight, which lies (L, K, F), is read as it lies."""
        features, channels, cells = weight.shape
        found = rows @ weight.permute(0, 2, 1).reshape(features, cells * channels)
        return found.reshape(len(rows), cells, channels).permute(0, 2, 1)

    def box_sums(self, cells: Tensor, boxes: Boxes, threads: int | None) -> Tensor:
        """See `Operations`; few features are expected, those of targets."""
        count, height, width, features = cells.shape
        inside = box_masks(boxes.tobytes(), (height, width), cells.device)
        sums = torch.matmul(inside, cells.reshape(count, height * width, features).double())
        return sums.to(cells.dtype)

    def first_layer_boxes(self, cells: Tensor, boxes: Boxes, threads: int | None) -> GpuFirstLayerBoxes:
        """See `Operations`."""
        return GpuFirstLayerBoxes(cells, boxes)

    def first_layer_channels(
        self, start: Tensor, products: Tensor, batch_index: Tensor, channel: Tensor, out: Tensor
    ) -> None:
        """See `Operations`."""
        first_layer_channels(start, products, batch_index, channel, out)

    def box_probabilities(
        self,
        cells: Tensor,
        logits: Tensor,
        nothing: Tensor,
        boxes: Boxes,
        targets: Tensor,
        threads: int | None,
    ) -> tuple[Tensor, Tensor]:
        """See `Operations`."""
        return box_probabilities_pair(cells, logits, nothing, constant_like(boxes, cells), targets)

    def box_scores(
        self,
        features: Tensor,
        weight: Tensor,
        logits: Tensor,
        nothing: Tensor,
        boxes: Boxes,
        targets: Tensor,
        *,
        scale: float,
        threads: int | None,
    ) -> tuple[Tensor, Tensor]:
        """See `Operations`."""
        return box_scores(
            features, weight, logits, nothing, constant_like(boxes, features), targets, scale=scale
        )

    def saliency(
        self, raw: Tensor, size: tuple[int, int], *, threads: int | None, **how: Any
    ) -> tuple[Tensor, Tensor]:
        """See `Operations`."""
        return saliency(raw, size, **how)


ON_GPU = OnGpu()
