"""Operations on tensors in the host's memory: the native kernels, on the same memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from camrt.engine.operations.native import Native, NativeBoxRows
from camrt.errors import MemoryLimitError
from camrt.kernels.tensors import HALVES

__all__ = ["ON_CPU"]

Tensor = torch.Tensor
Boxes = npt.NDArray[np.int64]
NATIVE = Native()


def seen(tensor: Tensor) -> npt.NDArray[Any]:
    """A tensor as an array on the same memory; a copy in float32 where NumPy has no such type."""
    plain = tensor.detach()
    array: npt.NDArray[Any] = (plain.float() if plain.dtype in HALVES else plain).numpy()
    return array


@contextmanager
def written(out: Tensor) -> Iterator[npt.NDArray[Any]]:
    """An array for a kernel to write in the place of a tensor."""
    if out.dtype == torch.float32 and out.is_contiguous():
        yield seen(out)
        return
    rows = np.empty(tuple(out.shape), np.float32)
    yield rows
    out.copy_(torch.from_numpy(rows))


class CpuBoxRows:
    """See `camrt.engine.operations.BoxRows`.

    Args:
        rows: What does it for arrays.
    """

    def __init__(self, rows: NativeBoxRows) -> None:
        self._rows = rows

    def changed(self) -> tuple[Tensor, Tensor]:
        """See `BoxRows`."""
        batch_index, box = self._rows.changed()
        return torch.from_numpy(batch_index), torch.from_numpy(box)

    def fill(self, start: Tensor, batch_index: Tensor, box: Tensor, out: Tensor, *, keep: bool) -> None:
        """See `BoxRows`."""
        with written(out) as rows:
            self._rows.fill(seen(start), seen(batch_index), seen(box), rows, keep=keep)


class OnCpu:
    """See `camrt.engine.operations.Operations`."""

    sees_values = True
    fuses = False
    short_of_memory: tuple[type[Exception], ...] = (MemoryLimitError, torch.OutOfMemoryError)

    def free(self) -> None:
        """See `Operations`: none is held."""

    def ablate_channels(
        self, activations: Tensor, batch_index: Tensor, channel: Tensor, out: Tensor, threads: int | None
    ) -> None:
        """See `Operations`."""
        with written(out) as rows:
            NATIVE.ablate_channels(seen(activations), seen(batch_index), seen(channel), rows, threads)

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
        with written(out) as rows:
            NATIVE.ablate_boxes(
                seen(activations), seen(batch_index), seen(boxes), rows, keep=keep, threads=threads
            )

    def masked_batch(
        self,
        activations: Tensor,
        pictures: Tensor,
        batch_index: Tensor,
        channel: Tensor,
        out: Tensor,
        **how: Any,
    ) -> None:
        """See `Operations`."""
        with written(out) as rows:
            NATIVE.masked_batch(
                seen(activations), seen(pictures), seen(batch_index), seen(channel), rows, **how
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
        with written(out) as rows:
            NATIVE.rank_one(
                seen(base), seen(weight), seen(activations), seen(batch_index), seen(channel), rows, threads
            )

    def partial_products(
        self, weight: Tensor, u: Tensor, *, by: Literal["cell", "channel"], threads: int | None
    ) -> Tensor:
        """See `Operations`."""
        return torch.from_numpy(NATIVE.partial_products(seen(weight), seen(u), by=by, threads=threads))

    def laid_out(self, weight: Tensor) -> Tensor:
        """See `Operations`."""
        return weight

    def behind(self, rows: Tensor, weight: Tensor) -> Tensor:
        """See `Operations`."""
        return (rows @ weight.reshape(len(weight), -1)).reshape(len(rows), *weight.shape[1:])

    def box_sums(self, cells: Tensor, boxes: Boxes, threads: int | None) -> Tensor:
        """See `Operations`."""
        return torch.from_numpy(NATIVE.box_sums(seen(cells), boxes, threads))

    def box_rows(self, cells: Tensor, boxes: Boxes, threads: int | None) -> CpuBoxRows:
        """See `Operations`."""
        return CpuBoxRows(NATIVE.box_rows(seen(cells), boxes, threads))

    def channel_rows(
        self, start: Tensor, products: Tensor, batch_index: Tensor, channel: Tensor, out: Tensor
    ) -> None:
        """See `Operations`."""
        with written(out) as rows:
            NATIVE.channel_rows(seen(start), seen(products), seen(batch_index), seen(channel), rows)

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
            seen(cells), seen(logits), seen(nothing), boxes, seen(targets), threads
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
        given = (seen(features), seen(weight), seen(logits), seen(nothing), boxes, seen(targets))
        deleted, kept = NATIVE.box_scores(*given, scale=scale, threads=threads)
        return torch.from_numpy(deleted), torch.from_numpy(kept)

    def saliency(self, raw: Tensor, size: tuple[int, int], **how: Any) -> tuple[Tensor, Tensor]:
        """See `Operations`."""
        maps, flags = NATIVE.saliency(seen(raw), size, **how)
        return torch.from_numpy(maps), torch.from_numpy(flags)


ON_CPU = OnCpu()
