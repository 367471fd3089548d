"""`box_scores` in Triton: see the README beside this file for bytes and operations."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from camrt.kernels.box_probabilities.gpu import merge_probabilities, store_part
from camrt.kernels.tensor_checks import check_floats, check_indices, on_device

__all__ = ["box_scores"]

HELD = 256
"""Cells whose contributions a program holds at most; of a larger map it computes them for each tile."""
LOOPED = 64
"""Cells of such a map that are taken at once."""
BOXES = 32
"""Boxes whose altered logits a program holds at once; half as many beyond 128 cells: registers spill."""
ENOUGH = 128
"""Programs that fill a card."""
WIDEST = 8
"""Elements that one access takes at most: 16 bytes of a type of two."""
LARGEST = tl.constexpr(3.3895313892515355e38)
"""The largest bfloat16; a contribution beyond it counts as infinite."""


def box_scores(
    features: torch.Tensor,
    weight: torch.Tensor,
    logits: torch.Tensor,
    empty_logits: torch.Tensor,
    boxes: torch.Tensor,
    targets: torch.Tensor,
    *,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the targets' probabilities with each box of cells deleted, and with nothing but it kept.

    The probabilities are those of `camrt.kernels.box_scores.box_scores`. Tensors may be float32, float16 or
    bfloat16, each its own. Features and weights of one half type are multiplied as they are, on tensor
    cores; all sums and everything else are in float32.

    Args:
        features: φ(A) − φ(0), shape (N, K, h, w), any strides.
        weight: Shape (C, K), any strides.
        logits: Of the whole map, shape (N, C), any strides.
        empty_logits: The logits of an empty map, shape (N, C), any strides.
        boxes: Half-open boxes (r0, c0, r1, c1), shape (P, 4), within the map.
        targets: Classes asked for, shape (N, T), in range.
        scale: What a cell's features are multiplied by: 1/hw for a mean over cells.

    Returns:
        The probabilities after deletion and after preservation, each (N, P, T) and float32.

    Raises:
        ValueError: An argument has a wrong type, shape, device or value.
    """
    boxes, targets = _check(features, weight, logits, empty_logits, boxes, targets, scale)
    shape = (len(features), len(boxes), targets.shape[1])
    if 0 in shape:
        deleted, kept = torch.empty((2, *shape), dtype=torch.float32, device=features.device)
        return deleted, kept
    with on_device(features.device):
        parts, chosen = _find_parts(features, weight, logits, empty_logits, boxes, targets, scale)
        deleted, kept = merge_probabilities(parts, chosen, len(boxes), torch.float32)
    return deleted, kept


def _check(
    features: torch.Tensor,
    weight: torch.Tensor,
    logits: torch.Tensor,
    empty_logits: torch.Tensor,
    boxes: torch.Tensor,
    targets: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    check_floats("features", features, "N K h w")
    device = features.device
    n, channels, h, w = features.shape
    if min(h, w) < 1:
        raise ValueError(f"features must have at least one cell, got {h} x {w}")
    check_floats("weight", weight, "C K", device)
    classes = weight.shape[0]
    if classes < 1 or weight.shape[1] != channels:
        raise ValueError(
            f"weight must have at least one class and {channels} channels like features, "
            f"got {tuple(weight.shape)}"
        )
    for name, one in (("logits", logits), ("empty_logits", empty_logits)):
        check_floats(name, one, "N C", device)
        if one.shape != (n, classes):
            raise ValueError(f"{name} must have shape {(n, classes)}, got {tuple(one.shape)}")
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
    return check_indices("boxes", boxes, (-1, 4), device), check_indices("targets", targets, (n, -1), device)


def _find_parts(
    features: torch.Tensor,
    weight: torch.Tensor,
    logits: torch.Tensor,
    empty_logits: torch.Tensor,
    boxes: torch.Tensor,
    targets: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every box the parts of both softmaxes and the targets' logits."""
    device = features.device
    n, channels, h, w = features.shape
    count, asked, cells = len(boxes), targets.shape[1], h * w
    half = features.dtype == weight.dtype != torch.float32
    once = cells <= HELD
    held = min(max(triton.next_power_of_2(cells), 16), HELD) if once else LOOPED
    rows = BOXES // 2 if held > 128 else BOXES
    groups = 1 if once else triton.cdiv(count, rows)
    classes = 32 if held > 128 else 64
    while classes > 16 and n * groups * triton.cdiv(len(weight), classes) < ENOUGH:
        classes //= 2
    blocks, span = triton.cdiv(len(weight), classes), triton.cdiv(count, groups * rows) * rows
    parts = torch.empty((n, 2, blocks, 2, count), dtype=torch.float32, device=device)
    chosen = torch.empty((n, 2, asked, count), dtype=torch.float32, device=device)
    stride_n, stride_k, stride_h, stride_w = features.stride()
    flat = h == 1 or stride_h == w * stride_w
    unit = math.gcd(WIDEST, cells, stride_n, stride_k) if flat and stride_w == 1 else 1
    _parts[(blocks, groups, n)](
        features, stride_n // unit, stride_k // unit, stride_h, stride_w, channels, h, w, cells // unit,
        weight, *weight.stride(), len(weight), float(scale),
        logits, *logits.stride(), empty_logits, *empty_logits.stride(),
        boxes, count, span, targets, asked, parts, chosen,
        UNIT=unit, FLAT=flat, ONCE=once, HALF=half, INTERPRETED=device.type == "cpu",
        CELLS=held, DEPTH=64 if half else 32, CLASSES=classes, BOXES=rows,
        num_warps=4 if once and held * classes <= 4096 else 8,
    )  # fmt: skip
    return parts, chosen


@triton.jit
def _parts(
    p_features,  # (N, K, h, w)
    stride_n, stride_k,  # of the features, in units of UNIT
    stride_h, stride_w,
    channels, h, w,
    cells,  # h × w, in units of UNIT
    p_weight,  # (C, K)
    stride_wc, stride_wk,
    classes,
    scale,
    p_logits,  # (N, C), of the whole map
    stride_ln, stride_lc,
    p_empty,  # (N, C), logits of an empty map
    stride_on, stride_oc,
    p_boxes,  # (P, 4)
    boxes,
    span,  # boxes of a program
    p_targets,  # (N, T)
    targets,
    p_parts,  # (N, 2, J, 2, P) float32, see `store_part`
    p_chosen,  # (N, 2, T, P) float32
    UNIT: tl.constexpr,
    FLAT: tl.constexpr,  # cells follow each other by stride_w, rows included
    ONCE: tl.constexpr,  # CELLS holds all cells of an image
    HALF: tl.constexpr,  # features and weights are multiplied in their own type
    INTERPRETED: tl.constexpr,
    CELLS: tl.constexpr,
    DEPTH: tl.constexpr,
    CLASSES: tl.constexpr,
    BOXES: tl.constexpr,
):  # fmt: skip
    j, n = tl.program_id(0), tl.program_id(2).to(tl.int64)
    start = j * CLASSES
    column = start + tl.arange(0, CLASSES)
    known = column < classes
    wide_column = column.to(tl.int64)
    logits = tl.load(p_logits + n * stride_ln + wide_column * stride_lc, known, other=float("-inf"))
    logits = logits.to(tl.float32)
    others = tl.load(p_empty + n * stride_on + wide_column * stride_oc, known, other=float("-inf"))
    others = others.to(tl.float32)
    p_image = p_features + n * stride_n * UNIT
    p_rows = p_weight + wide_column * stride_wc
    blocks = tl.num_programs(0)
    p_deleted = p_parts + (n * 2 * blocks + j) * 2 * boxes
    p_kept = p_parts + ((n * 2 + 1) * blocks + j) * 2 * boxes
    p_logit_deleted = p_chosen + n * 2 * targets * boxes
    p_logit_kept = p_chosen + (n * 2 + 1) * targets * boxes
    p_targets += n * targets
    cell = tl.arange(0, CELLS)
    if ONCE:
        high, middle, low, odd, broken = _contributions(
            p_image, stride_k, stride_h, stride_w, channels, w, cells, cell,
            p_rows, stride_wk, known, scale, UNIT, FLAT, HALF, INTERPRETED, CELLS, DEPTH, CLASSES,
        )  # fmt: skip
    begin = tl.program_id(1) * span
    for first in range(begin, tl.minimum(begin + span, boxes), BOXES):
        box = first + tl.arange(0, BOXES)
        asked = box < boxes
        top = tl.load(p_boxes + 4 * box, asked, other=0).to(tl.int32)
        left = tl.load(p_boxes + 4 * box + 1, asked, other=0).to(tl.int32)
        bottom = tl.load(p_boxes + 4 * box + 2, asked, other=0).to(tl.int32)
        right = tl.load(p_boxes + 4 * box + 3, asked, other=0).to(tl.int32)
        if ONCE:
            covered = _covered(cell, w, top, left, bottom, right)
            total = _box_sums(covered, high, middle, low, odd, broken, INTERPRETED)
        else:
            total = tl.zeros((BOXES, CLASSES), tl.float32)
            nearest = tl.min(tl.where(asked, top * w + left, h * w)) // CELLS * CELLS
            farthest = tl.max(tl.where(asked, (bottom - 1) * w + right, 0))
            for origin in range(nearest, farthest, CELLS):
                high, middle, low, odd, broken = _contributions(
                    p_image, stride_k, stride_h, stride_w, channels, w, cells, origin + cell,
                    p_rows, stride_wk, known, scale, UNIT, FLAT, HALF, INTERPRETED, CELLS, DEPTH, CLASSES,
                )  # fmt: skip
                covered = _covered(origin + cell, w, top, left, bottom, right)
                total += _box_sums(covered, high, middle, low, odd, broken, INTERPRETED)
        store_part(
            logits[None, :] - total, column, start, box, boxes,
            p_deleted, p_logit_deleted, p_targets, targets, CLASSES,
        )  # fmt: skip
        store_part(
            others[None, :] + total, column, start, box, boxes,
            p_kept, p_logit_kept, p_targets, targets, CLASSES,
        )  # fmt: skip


@triton.jit
def _contributions(
    p_image,  # (K, h, w)
    stride_k,  # in units of UNIT
    stride_h, stride_w,
    channels, w,
    cells,  # in units of UNIT
    cell,  # CELLS of them
    p_rows,  # (CLASSES,) pointers to rows of the weight
    stride_wk,
    known,  # which of these exist
    scale,
    UNIT: tl.constexpr,
    FLAT: tl.constexpr,
    HALF: tl.constexpr,
    INTERPRETED: tl.constexpr,
    CELLS: tl.constexpr,
    DEPTH: tl.constexpr,
    CLASSES: tl.constexpr,
):  # fmt: skip
    """What cells contribute to classes, (CELLS, CLASSES), in bfloat16.

    Three numbers whose sum is the float32, or zeros where it is not finite; a fourth that says what it is
    there, or zero; and whether it is so anywhere.
    """
    here = cell < cells * UNIT
    if FLAT:
        p_cells = p_image + cell.to(tl.int64) * stride_w
    else:
        p_cells = p_image + (cell // w).to(tl.int64) * stride_h + (cell % w).to(tl.int64) * stride_w
    x = tl.zeros((CELLS, CLASSES), tl.float32)
    for start in range(0, channels, DEPTH):
        k = start + tl.arange(0, DEPTH)
        real = k < channels
        k = k.to(tl.int64)
        p_a = p_cells[:, None] + k[None, :] * stride_k * UNIT
        a = tl.load(p_a, here[:, None] & real[None, :], other=0)
        b = tl.load(p_rows[None, :] + k[:, None] * stride_wk, real[:, None] & known[None, :], other=0)
        # Each block starts from nothing and is added by an ordinary addition: see the README.
        x += _product(a, b, HALF and not INTERPRETED) * scale
    finite = tl.abs(x) <= LARGEST
    rest = tl.where(finite, x, 0.0)
    high = rest.to(tl.bfloat16)
    rest -= high.to(tl.float32)
    middle = rest.to(tl.bfloat16)
    low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
    odd = tl.where(finite, 0.0, x).to(tl.bfloat16)
    return high, middle, low, odd, tl.min(finite.to(tl.int32)) == 0


@triton.jit
def _product(a, b, AS_THEY_ARE: tl.constexpr):
    """The product of two matrices in float32; the interpreter cannot take bfloat16 as it is."""
    if AS_THEY_ARE:
        return tl.dot(a, b)
    return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="tf32x3")


@triton.jit
def _covered(cell, w, top, left, bottom, right):
    """Which cells lie in which boxes, (cells, boxes)."""
    row, column = (cell // w)[:, None], (cell % w)[:, None]
    tall = (row >= top[None, :]) & (row < bottom[None, :])
    return tall & (column >= left[None, :]) & (column < right[None, :])


@triton.jit
def _box_sums(
    covered,  # (cells, boxes)
    high, middle, low, odd, broken,  # see `_contributions`
    INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Sums over boxes, (boxes, classes); what is not finite stays in the boxes that hold it."""
    count = tl.trans(tl.where(covered, 1.0, 0.0).to(tl.bfloat16))
    total = _product(count, low, not INTERPRETED)
    total += _product(count, middle, not INTERPRETED)
    total += _product(count, high, not INTERPRETED)
    if broken:
        wrong = odd.to(tl.float32)
        above = tl.where((wrong > 0) | (wrong != wrong), 1.0, 0.0).to(tl.bfloat16)
        below = tl.where((wrong < 0) | (wrong != wrong), 1.0, 0.0).to(tl.bfloat16)
        total += tl.where(_product(count, above, not INTERPRETED) > 0, float("inf"), 0.0)
        total += tl.where(_product(count, below, not INTERPRETED) > 0, float("-inf"), 0.0)
    return total
