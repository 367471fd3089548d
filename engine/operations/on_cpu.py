"""Operations on tensors in the host's memory: the native kernels, on the same memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from camrt.engine.operations.native import Native, NativeFirstLayerBoxes
from camrt.errors import MemoryLimitError
from camrt.kernels.tensor_checks import HALVES

__all__ = ["ON_CPU"]

Tensor = torch.Tensor
Boxes = npt.NDArray[np.int64]
NATIVE = Native()


def to_numpy_view(tensor: Tensor) -> npt.NDArray[Any]:
    """A tensor as an array on the same memory; a copy in float32 where NumPy has no such type."""
    plain = tensor.detach()
    array: npt.NDArray[Any] = (plain.float() if plain.dtype in HALVES else plain).numpy()
    return array


@contextmanager
def numpy_output(out: Tensor) -> Iterator[npt.NDArray[Any]]:
    """An array for a kernel to write in the place of a tensor."""
    if out.dtype == torch.float32 and out.is_contiguous():
        yield to_numpy_view(out)
        return
    rows = np.empty(tuple(out.shape), np.float32)
    yield rows
    out.copy_(torch.from_numpy(rows))


class CpuFirstLayerBoxes:
    """See `camrt.engine.operations.BoxRows`.

    Args:
        rows: What does it for arrays.
    """

    def __init__(self, rows: NativeFirstLayerBoxes) -> None:
        self._rows = rows

    def changed_pairs(self) -> tuple[Tensor, Tensor]:
        """See `BoxRows`."""
        batch_index, box = self._rows.changed_pairs()
        return torch.from_numpy(batch_index), torch.from_numpy(box)

    def fill(self, start: Tensor, batch_index: Tensor, box: Tensor, out: Tensor, *, keep: bool) -> None:
        """See `BoxRows`."""
        with numpy_output(out) as rows:
            self._rows.fill(
                to_numpy_view(start), to_numpy_view(batch_index), to_numpy_view(box), rows, keep=keep
            )


class OnCpu:
    """See `camrt.engine.operations.Operations`."""

    host_readable = True
    has_fused_box_scores = False
    out_of_memory_errors: tuple[type[Exception], ...] = (MemoryLimitError, torch.OutOfMemoryError)

    def release_memory(self) -> None:
        """See `Operations`: none is held."""

    def ablate_channels(
        self, activations: Tensor, batch_index: Tensor, channel: Tensor, out: Tensor, threads: int | None
    ) -> None:
        """See `Operations`."""
        with numpy_output(out) as rows:
            NATIVE.ablate_channels(
                to_numpy_view(activations), to_numpy_view(batch_index), to_numpy_view(channel), rows, threads
            )

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
        with numpy_output(out) as rows:
            NATIVE.ablate_boxes(
                to_numpy_view(activations),
                to_numpy_view(batch_index),
                to_numpy_view(boxes),
                rows,
                keep=keep,
                threads=threads,
            )

    def masked_batch(
        self,
        activations: Tensor,
        images: Tensor,
        batch_index: Tensor,
        channel: Tensor,
        out: Tensor,
        **how: Any,
    ) -> None:
        """See `Operations`."""
        with numpy_output(out) as rows:
            NATIVE.masked_batch(
                to_numpy_view(activations),
                to_numpy_view(images),
                to_numpy_view(batch_index),
                to_numpy_view(channel),
                rows,
                **how,
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
        with numpy_output(out) as rows:
            NATIVE.rank_one(
                to_numpy_view(base),
                to_numpy_view(weight),
                to_numpy_view(activations),
                to_numpy_view(batch_index),
                to_numpy_view(channel),
                rows,
                threads,
            )

    def partial_products(
        self, weight: Tensor, u: Tensor, *, by: Literal["cell", "channel"], threads: int | None
    ) -> Tensor:
        """See `Operations`."""
        return torch.from_numpy(
            NATIVE.partial_products(to_numpy_view(weight), to_numpy_view(u), by=by, threads=threads)
        )

    def pack_weight(self, weight: Tensor) -> Tensor:
        """See `Operations`."""
        return weight

    def matmul_packed(self, rows: Tensor, weight: Tensor) -> Tensor:
        """See `Operations`."""
        return (rows @ weight.reshape(len(weight), -1)).reshape(len(rows), *weight.shape[1:])

    def box_sums(self, cells: Tensor, boxes: Boxes, threads: int | None) -> Tensor:
        """See `Operations`."""
        return torch.from_numpy(NATIVE.box_sums(to_numpy_view(cells), boxes, threads))

    def first_layer_boxes(self, cells: Tensor, boxes: Boxes, threads: int | None) -> CpuFirstLayerBoxes:
        """See `Operations`."""
        return CpuFirstLayerBoxes(NATIVE.first_layer_boxes(to_numpy_view(cells), boxes, threads))

    def first_layer_channels(
        self, start: Tensor, products: Tensor, batch_index: Tensor, channel: Tensor, out: Tensor
    ) -> None:
        """See `Operations`."""
        with numpy_output(out) as rows:
            NATIVE.first_layer_channels(
                to_numpy_view(start),
                to_numpy_view(products),
                to_numpy_view(batch_index),
                to_numpy_view(channel),
                rows,
            )

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
        deleted, kept = NATIVE.box_probabilities(
            to_numpy_view(cells),
            to_numpy_view(logits),
            to_numpy_view(nothing),
            boxes,
            to_numpy_view(targets),
            threads,
        )
        return torch.from_numpy(deleted), torch.from_numpy(kept)

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
        given = (
            to_numpy_view(features),
            to_numpy_view(weight),
            to_numpy_view(logits),
            to_numpy_view(nothing),
            boxes,
            to_numpy_view(targets),
        )
        deleted, kept = NATIVE.box_scores(*given, scale=scale, threads=threads)
        return torch.from_numpy(deleted), torch.from_numpy(kept)

    def saliency(self, raw: Tensor, size: tuple[int, int], **how: Any) -> tuple[Tensor, Tensor]:
        """See `Operations`."""
        maps, flags = NATIVE.saliency(to_numpy_view(raw), size, **how)
        return torch.from_numpy(maps), torch.from_numpy(flags)


ON_CPU = OnCpu()
