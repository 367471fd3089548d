"""The kernels that `gpu.py` runs, on the arrays of ordinary models, each beside its reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from camrt.kernels import (
    ablate,
    blur,
    box_scores,
    first_layer_difference,
    masked_batch,
    partial_products,
    perturb,
    rank_one,
    saliency,
)
from camrt.kernels.ablate import gpu as ablate_gpu
from camrt.kernels.blur import gpu as blur_gpu
from camrt.kernels.box_scores import gpu as box_scores_gpu
from camrt.kernels.first_layer_difference import gpu as first_layer_gpu
from camrt.kernels.masked_batch import gpu as masked_gpu
from camrt.kernels.partial_products import gpu as products_gpu
from camrt.kernels.perturb import gpu as perturb_gpu
from camrt.kernels.rank_one import gpu as rank_one_gpu
from camrt.kernels.saliency import gpu as saliency_gpu

__all__ = ["ArrayFactory", "KernelCase", "cases"]

SHOWN = 3
"""Rows of a result that are compared with the reference."""
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Of the largest magnitude; see tests/helpers/tolerances.py. Sums of thousands of terms lose a digit more."""

KINDS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class KernelCase:
    """A kernel on arrays of one size.

    Attributes:
        name: What is run.
        bytes: What must go through memory: every input and output once.
        operations: Of its matrix products; 0 where arithmetic cannot bind.
        work: Runs it once.
        difference: Its largest relative difference from the reference, on a few rows.
        bound: What that must not pass.
    """

    name: str
    bytes: int
    operations: float
    work: Callable[[], Any]
    difference: Callable[[], float]
    bound: float


class ArrayFactory:
    """Makes arrays on the device, seeded, and cases of them.

    Args:
        device: Where.
        small: Whether for a comparison alone.
    """

    def __init__(self, device: torch.device, small: bool) -> None:
        self.device = device
        self.small = small
        self._generator = torch.Generator(device).manual_seed(0)

    def count(self, large: int, small: int) -> int:
        """How many, by what for."""
        return small if self.small else large

    def normal(self, *shape: int, kind: torch.dtype) -> torch.Tensor:
        """Normal deviates."""
        return torch.randn(shape, generator=self._generator, device=self.device).to(kind)

    def whole(self, least: int, most: int, *shape: int) -> torch.Tensor:
        """Whole numbers from `least` to below `most`."""
        return torch.randint(least, most, shape, generator=self._generator, device=self.device)

    def empty(self, *shape: int, kind: torch.dtype, last: bool = False) -> torch.Tensor:
        """NaN, to be written over; channels-last if `last`."""
        made = torch.full(shape, float("nan"), dtype=kind, device=self.device)
        return made.contiguous(memory_format=torch.channels_last) if last else made


def case(
    name: str,
    kind: torch.dtype,
    moved: tuple[torch.Tensor, ...],
    work: Callable[[], Any],
    result: Callable[[], torch.Tensor],
    reference: Callable[[], Any],
    operations: float = 0.0,
) -> KernelCase:
    """A case whose result's first rows are those of a reference."""

    def difference() -> float:
        work()
        expected = np.asarray(reference(), np.float64)
        found = result()[: len(expected)].double().cpu().numpy()
        return float(np.abs(found - expected).max() / np.abs(expected).max())

    bytes_moved = sum(one.numel() * one.element_size() for one in moved)
    label = f"{name}, {str(kind).removeprefix('torch.')}"
    return KernelCase(label, bytes_moved, operations, work, difference, TOLERANCE[kind])


def to_float64(tensor: torch.Tensor) -> Any:
    """As float64 on the host."""
    return tensor.double().cpu().numpy()


def to_cpu(tensor: torch.Tensor) -> Any:
    return tensor.cpu().numpy()


def masked_batch_cases(make: ArrayFactory, kind: torch.dtype, last: bool) -> KernelCase:
    """Score-CAM's images: 2048 masks of 7×7."""
    n, side = 8, make.count(224, 33)
    item = torch.finfo(kind).bits // 8
    rows = make.count(8192 // item, 4)
    a, x = make.normal(n, 64, 7, 7, kind=kind), make.normal(n, 3, side, side, kind=kind)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    batch_index, channel = make.whole(0, n, rows).sort().values, make.whole(0, 64, rows)
    out = make.empty(rows, 3, side, side, kind=kind, last=last)

    def reference() -> Any:
        expected = np.empty((SHOWN, 3, side, side))
        masked_batch.reference.masked_batch(
            to_float64(a), to_float64(x), to_cpu(batch_index[:SHOWN]), to_cpu(channel[:SHOWN]), expected,
            order="upsample-first", align_corners=False, epsilon=0.0,
        )  # fmt: skip
        return expected

    return case(
        f"masked_batch {'NHWC' if last else 'NCHW'}", kind, (out,),
        lambda: masked_gpu.masked_batch(a, x, batch_index, channel, out), lambda: out, reference,
    )  # fmt: skip


def ablate_cases(make: ArrayFactory, kind: torch.dtype, boxes: bool) -> KernelCase:
    """Copies of ResNet-50's activation with a channel, or a box, set to zero."""
    n, k = 8, make.count(2048, 32)
    rows = make.count(6144, 4)
    a, batch_index = make.normal(n, k, 7, 7, kind=kind), make.whole(0, n, rows).sort().values
    channel, corner = make.whole(0, k, rows), make.whole(0, 5, rows, 2)
    box = torch.cat([corner, corner + 2], dim=1)
    out = make.empty(rows, k, 7, 7, kind=kind)

    def reference() -> Any:
        expected, shown = np.empty((SHOWN, k, 7, 7)), to_cpu(batch_index[:SHOWN])
        if boxes:
            ablate.reference.ablate_boxes(to_float64(a), shown, to_cpu(box[:SHOWN]), expected, keep=False)
        else:
            ablate.reference.ablate_channels(to_float64(a), shown, to_cpu(channel[:SHOWN]), expected)
        return expected

    def work() -> None:
        if boxes:
            ablate_gpu.ablate_boxes(a, batch_index, box, out, keep=False)
        else:
            ablate_gpu.ablate_channels(a, batch_index, channel, out)

    return case(f"ablate_{'boxes' if boxes else 'channels'}", kind, (out,), work, lambda: out, reference)


def saliency_cases(make: ArrayFactory, kind: torch.dtype) -> KernelCase:
    """Saliency of raw maps."""
    m, side = make.count(5376, 4), make.count(224, 33)
    raw, out = make.normal(m, 7, 7, kind=kind), make.empty(m, side, side, kind=torch.float32)
    kept: list[torch.Tensor] = []

    def work() -> None:
        kept[:] = saliency_gpu.saliency(raw, (side, side))

    def reference() -> Any:
        return saliency.reference.saliency(
            to_float64(raw[:SHOWN]),
            (side, side),
            mode="native",
            normalisation="max",
            relu=True,
            align_corners=False,
        )[0]

    return case("saliency", kind, (raw, out), work, lambda: kept[0], reference)


def perturb_cases(make: ArrayFactory, kind: torch.dtype, last: bool) -> KernelCase:
    """Steps of deletion: 8 images, 224 steps each."""
    n, side = 8, make.count(224, 33)
    rows = make.count(1792 * 4 // (torch.finfo(kind).bits // 8), 6)
    sheets = make.normal(2 * n, 3, side, side, kind=kind)
    if last:
        sheets = sheets.contiguous(memory_format=torch.channels_last)
    ranks = perturb_gpu.ranks_of(make.normal(n, side, side, kind=torch.float32))
    own = torch.arange(rows, device=make.device) * n // rows
    count = make.whole(0, side * side, rows)
    out = make.empty(rows, 3, side, side, kind=kind, last=last)

    def reference() -> Any:
        expected = np.empty((SHOWN, 3, side, side))
        shown, until = to_cpu(own[:SHOWN]), to_cpu(count[:SHOWN])
        perturb.reference.perturb(to_float64(sheets), to_cpu(ranks), shown, until, shown, shown + n, expected)
        return expected

    return case(
        f"perturb {'NHWC' if last else 'NCHW'}", kind, (out,),
        lambda: perturb_gpu.perturb(sheets, ranks, own, count, own, own + n, out), lambda: out, reference,
    )  # fmt: skip


def blur_cases(make: ArrayFactory, kind: torch.dtype) -> KernelCase:
    """The blur of remove-and-classify: 31 taps."""
    n, side = make.count(1792, 2), make.count(224, 65)
    x = make.normal(n, 3, side, side, kind=kind)
    taps = np.exp(-0.5 * ((np.arange(31) - 15) / 15) ** 2)
    taps /= taps.sum()
    kept: list[torch.Tensor] = []

    def work() -> None:
        kept[:] = [blur_gpu.blur(x, taps, "mirror")]

    def reference() -> Any:
        expected = np.empty((1, 3, side, side))
        blur.reference.blur(to_float64(x[:1]), taps, "mirror", expected)
        return expected

    return case("blur, 31 taps", kind, (x, x), work, lambda: kept[0], reference)


def rank_one_cases(make: ArrayFactory, kind: torch.dtype) -> KernelCase:
    """ResNet-like rank-one differences of a dense first layer."""
    n, f, k, cells = 8, make.count(512, 16), make.count(512, 8), 49
    rows = make.count(12288 * 4 // (torch.finfo(kind).bits // 8), 4)
    base, weight = make.normal(n, f, cells, kind=kind), make.normal(k, f, kind=kind)
    a = make.normal(n, k, cells, kind=kind)
    batch_index, channel = make.whole(0, n, rows).sort().values, make.whole(0, k, rows)
    out = make.empty(rows, f, cells, kind=kind)

    def reference() -> Any:
        expected = np.empty((SHOWN, f, cells))
        rank_one.reference.rank_one(
            to_float64(base),
            to_float64(weight),
            to_float64(a),
            to_cpu(batch_index[:SHOWN]),
            to_cpu(channel[:SHOWN]),
            expected,
        )
        return expected

    return case(
        "rank_one", kind, (out,), lambda: rank_one_gpu.rank_one(base, weight, a, batch_index, channel, out),
        lambda: out, reference,
    )  # fmt: skip


def partial_product_cases(make: ArrayFactory, kind: torch.dtype) -> KernelCase:
    """Partial products of VGG-16's first linear layer, by cell, for 8 images."""
    n, f, k, cells = 8, make.count(4096, 32), make.count(512, 16), 49
    weight = products_gpu.pack_weight(make.normal(f, k, cells, kind=kind) / 20)
    u = make.normal(n, k, cells, kind=kind)
    kept: list[torch.Tensor] = []

    def work() -> None:
        kept[:] = [products_gpu.partial_products(weight, u, by="cell")]

    def reference() -> Any:
        return partial_products.reference.partial_products(to_float64(weight), to_float64(u[:1]), by="cell")

    out = make.empty(n, cells, f, kind=torch.float32)
    return case(
        "partial_products, VGG-16", kind, (weight, u, out), work, lambda: kept[0], reference,
        2.0 * weight.numel() * n,
    )  # fmt: skip


def first_layer_cases(make: ArrayFactory, kind: torch.dtype) -> KernelCase:
    """VGG-16's first linear layer after each box of sides up to 2 is taken away."""
    n, f, side = make.count(384, 2), make.count(4096, 32), 7
    start, partial = make.normal(n, f, kind=kind), make.normal(n, side, side, f, kind=kind)
    corner = make.whole(0, 5, n * make.count(169, 3), 2)
    box = torch.cat([corner, corner + 2], dim=1)
    batch_index = torch.arange(len(box), device=make.device) * n // len(box)
    out = make.empty(len(box), f, kind=kind)

    def reference() -> Any:
        expected = np.empty((SHOWN, f))
        first_layer_difference.reference.first_layer_boxes(
            to_float64(start[:2]),
            to_float64(partial[:2]),
            to_cpu(batch_index[:SHOWN]),
            to_cpu(box[:SHOWN]),
            expected,
            keep=False,
        )
        return expected

    return case(
        "first_layer_boxes, VGG-16", kind, (start, partial, out),
        lambda: first_layer_gpu.first_layer_boxes(start, partial, batch_index, box, out, keep=False),
        lambda: out, reference,
    )  # fmt: skip


def box_score_cases(make: ArrayFactory, kind: torch.dtype) -> KernelCase:
    """Pixab-CAM's questions to ResNet-50's head: 169 boxes of sides up to 2, 256 images."""
    n, k, classes, side = make.count(256, 2), make.count(2048, 32), make.count(1000, 20), 7
    boxes = torch.tensor(
        [
            (r, c, r + m, c + w)
            for m in (1, 2)
            for w in (1, 2)
            for r in range(side + 1 - m)
            for c in range(side + 1 - w)
        ],
        device=make.device,
    )
    a = make.normal(n, k, side, side, kind=kind).relu()
    weight = (make.normal(classes, k, kind=torch.float32) / k**0.5).to(kind)
    scale = 1 / side**2
    logits = scale * (a.float().sum((2, 3)) @ weight.float().T)
    empty_logits = torch.zeros_like(logits)
    targets = logits.argmax(1, keepdim=True)
    kept: list[torch.Tensor] = []

    def work() -> None:
        kept[:] = box_scores_gpu.box_scores(a, weight, logits, empty_logits, boxes, targets, scale=scale)

    def reference() -> Any:
        return box_scores.reference.box_scores(
            to_float64(a[:1]),
            to_float64(weight),
            to_float64(logits[:1]),
            to_float64(empty_logits[:1]),
            to_cpu(boxes),
            to_cpu(targets[:1]),
            scale=scale,
        )[0]

    return case(
        "box_scores, ResNet-50", kind, (a, weight, logits), work, lambda: kept[0], reference,
        2.0 * a.numel() * classes + 2.0 * n * len(boxes) * side**2 * classes,
    )  # fmt: skip


def cases(make: ArrayFactory) -> Iterator[KernelCase]:
    """Every kernel, in every type, one after another: each frees its arrays before the next."""
    for kind in KINDS:
        for last in (False, True):
            yield masked_batch_cases(make, kind, last)
            yield perturb_cases(make, kind, last)
        for boxes in (False, True):
            yield ablate_cases(make, kind, boxes)
        for one in (
            saliency_cases,
            blur_cases,
            rank_one_cases,
            partial_product_cases,
            first_layer_cases,
            box_score_cases,
        ):
            yield one(make, kind)
