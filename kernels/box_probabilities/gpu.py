"""`box_probabilities` in Triton, and the pieces of a softmax over blocks of classes.

See the README beside this file for bytes and operations.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from camrt.kernels.tensor_checks import check_floats, check_indices, on_device

__all__ = ["box_probabilities", "box_probabilities_pair", "merge_parts", "merge_probabilities", "store_part"]

LOWEST = tl.constexpr(-3.4028234663852886e38)
"""The greatest logit of no classes: less than any, and finite, so that differences with it are not NaN."""
TILE = (8, 256)
"""Boxes and classes whose altered logits a program holds at once."""
MERGED = (16, 64)
"""Blocks of classes and boxes that are merged at once."""
ENOUGH = 512
"""Programs that fill a card."""
WIDEST = 8
"""Elements that one access takes at most: 16 bytes of a type of two."""


def box_probabilities(
    contributions: torch.Tensor,
    logits: torch.Tensor,
    boxes: torch.Tensor,
    targets: torch.Tensor,
    *,
    sign: int,
) -> torch.Tensor:
    """Compute the softmax of logits[n] + sign × (sum of contributions over a box) at the targets.

    The probabilities are those of `camrt.kernels.box_probabilities.box_probabilities`. Tensors may be
    float32, float16 or bfloat16, each its own; everything is computed in float32.

    Args:
        contributions: What each cell adds to each logit, shape (N, h, w, C), any strides.
        logits: Shape (N, C), any strides.
        boxes: Half-open boxes (r0, c0, r1, c1), shape (P, 4), within the map.
        targets: Classes asked for, shape (N, T), in range.
        sign: +1 to add what the box contributes, -1 to take it away.

    Returns:
        The probabilities, shape (N, P, T), of the type of contributions.

    Raises:
        ValueError: An argument has a wrong type, shape, device or value.
    """
    if sign not in (-1, 1):
        raise ValueError(f"sign must be -1 or +1, got {sign}")
    _check(contributions, {"logits": logits})
    return _solve(contributions, (logits,), boxes, targets, sign)[0]


def box_probabilities_pair(
    contributions: torch.Tensor,
    logits_delete: torch.Tensor,
    logits_keep: torch.Tensor,
    boxes: torch.Tensor,
    targets: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute deletion and preservation together; the contributions are read once.

    Args:
        contributions: What each cell adds to each logit, shape (N, h, w, C), any strides.
        logits_delete: Logits of the whole map, shape (N, C), any strides; the box is taken from them.
        logits_keep: Logits of an empty map, shape (N, C), any strides; the box is added to them.
        boxes: Half-open boxes (r0, c0, r1, c1), shape (P, 4), within the map.
        targets: Classes asked for, shape (N, T), in range.

    Returns:
        softmax(logits_delete - box) and softmax(logits_keep + box) at the targets, each of shape (N, P, T)
        and of the type of contributions.

    Raises:
        ValueError: An argument has a wrong type, shape or device.
    """
    _check(contributions, {"logits_delete": logits_delete, "logits_keep": logits_keep})
    deleted, kept = _solve(contributions, (logits_delete, logits_keep), boxes, targets, -1)
    return deleted, kept


def merge_probabilities(
    parts: torch.Tensor, chosen: torch.Tensor, boxes: int, dtype: torch.dtype
) -> torch.Tensor:
    """Merge the parts of softmaxes over blocks of classes; to be called within `on_device`.

    Args:
        parts: (N, D, J, 2, Q) float32: of each block of classes the greatest logit, and the rest.
        chosen: (N, D, T, Q) float32: the logits of the targets.
        boxes: How many of the Q are asked for.
        dtype: The type of the probabilities.

    Returns:
        The probabilities, shape (D, N, boxes, T).
    """
    n, directions, blocks, _, every = parts.shape
    targets = chosen.shape[2]
    out = torch.empty((directions, n, boxes, targets), dtype=dtype, device=parts.device)
    if out.numel():
        _probabilities[(triton.cdiv(boxes, MERGED[1]), n, directions)](
            parts, blocks, every, chosen, targets, out, boxes, BLOCKS=MERGED[0], BOXES=MERGED[1]
        )
    return out


def _check(contributions: torch.Tensor, logits: dict[str, torch.Tensor]) -> None:
    check_floats("contributions", contributions, "N h w C")
    n, h, w, classes = contributions.shape
    if min(h, w, classes) < 1:
        raise ValueError(
            f"contributions must have at least one cell and one class, got {h} x {w} cells, {classes} classes"
        )
    for name, one in logits.items():
        check_floats(name, one, "N C", contributions.device)
        if one.shape != (n, classes):
            raise ValueError(
                f"{name} must have shape {(n, classes)} to match contributions, got {tuple(one.shape)}"
            )


def _solve(
    contributions: torch.Tensor,
    logits: tuple[torch.Tensor, ...],
    boxes: torch.Tensor,
    targets: torch.Tensor,
    sign: int,
) -> torch.Tensor:
    """(D, N, P, T) of one direction, or of deletion and preservation."""
    device, dtype = contributions.device, contributions.dtype
    n, _, _, classes = contributions.shape
    boxes = check_indices("boxes", boxes, (-1, 4), device)
    targets = check_indices("targets", targets, (n, -1), device)
    count, asked, directions = len(boxes), targets.shape[1], len(logits)
    if 0 in (n, count, asked):
        return torch.empty((directions, n, count, asked), dtype=dtype, device=device)
    rows, columns = TILE
    blocks = triton.cdiv(classes, columns)
    groups = min(triton.cdiv(ENOUGH, blocks * n), triton.cdiv(count, rows))
    span = triton.cdiv(triton.cdiv(count, groups), rows) * rows
    parts = torch.empty((n, directions, blocks, 2, count), dtype=torch.float32, device=device)
    chosen = torch.empty((n, directions, asked, count), dtype=torch.float32, device=device)
    unit = _unit(contributions)
    strides = [stride // unit for stride in contributions.stride()[:3]]
    with on_device(device):
        _parts[(blocks, triton.cdiv(count, span), n)](
            contributions, *strides, contributions.stride(3), classes // unit,
            logits[0], *logits[0].stride(), logits[-1], *logits[-1].stride(),
            boxes, count, span, targets, asked, parts, chosen,
            SIGN=sign, PAIR=directions == 2, UNIT=unit, BOXES=rows, CLASSES=columns,
        )  # fmt: skip
        return merge_probabilities(parts, chosen, count, dtype)


def _unit(contributions: torch.Tensor) -> int:
    """What the steps from cell to cell and the number of classes are multiples of: 1, 2, 4 or 8."""
    if contributions.stride(3) != 1:
        return 1
    return math.gcd(WIDEST, contributions.shape[3], *contributions.stride()[:3])


@triton.jit
def _parts(
    p_contributions,  # (N, h, w, C)
    stride_n, stride_h, stride_w,  # of the contributions, in units of UNIT
    stride_c,
    classes,  # in units of UNIT
    p_logits,  # (N, C), what the first direction alters
    stride_ln, stride_lc,
    p_others,  # (N, C), what the second does
    stride_on, stride_oc,
    p_boxes,  # (P, 4)
    boxes,
    span,  # boxes of a program
    p_targets,  # (N, T)
    targets,
    p_parts,  # (N, D, J, 2, P) float32, see `store_part`
    p_chosen,  # (N, D, T, P) float32
    SIGN: tl.constexpr,  # of the first direction
    PAIR: tl.constexpr,  # there is a second, of sign +1
    UNIT: tl.constexpr,
    BOXES: tl.constexpr,
    CLASSES: tl.constexpr,
):  # fmt: skip
    j = tl.program_id(0)
    n = tl.program_id(2).to(tl.int64)
    start = j * CLASSES
    column = start + tl.arange(0, CLASSES)
    known = column < classes * UNIT
    wide_column = column.to(tl.int64)
    p_classes = p_contributions + n * stride_n * UNIT + wide_column * stride_c
    logits = tl.load(p_logits + n * stride_ln + wide_column * stride_lc, known, other=float("-inf"))
    logits = logits.to(tl.float32)
    directions = 2 if PAIR else 1
    blocks = tl.num_programs(0)
    p_part = p_parts + (n * directions * blocks + j) * 2 * boxes
    p_found = p_chosen + n * directions * targets * boxes
    p_targets += n * targets
    if PAIR:
        others = tl.load(p_others + n * stride_on + wide_column * stride_oc, known, other=float("-inf"))
        others = others.to(tl.float32)
        p_other_part = p_parts + ((n * 2 + 1) * blocks + j) * 2 * boxes
        p_other_found = p_chosen + (n * 2 + 1) * targets * boxes
    begin = tl.program_id(1) * span
    for first in range(begin, tl.minimum(begin + span, boxes), BOXES):
        box = first + tl.arange(0, BOXES)
        asked = box < boxes
        top = tl.load(p_boxes + 4 * box, asked, other=0).to(tl.int64)
        left = tl.load(p_boxes + 4 * box + 1, asked, other=0).to(tl.int64)
        tall = tl.load(p_boxes + 4 * box + 2, asked, other=0).to(tl.int64) - top
        wide = tl.load(p_boxes + 4 * box + 3, asked, other=0).to(tl.int64) - left
        tallest, widest = tl.max(tall), tl.max(wide)
        total = tl.zeros((BOXES, CLASSES), tl.float32)
        for down in range(tallest):
            for right in range(widest):
                covered = (down < tall) & (right < wide)
                cell = ((top + down) * stride_h + (left + right) * stride_w) * UNIT
                inside = covered[:, None] & known[None, :]
                total += tl.load(p_classes[None, :] + cell[:, None], inside, other=0).to(tl.float32)
        store_part(
            logits[None, :] + SIGN * total, column, start, box, boxes,
            p_part, p_found, p_targets, targets, CLASSES,
        )  # fmt: skip
        if PAIR:
            store_part(
                others[None, :] + total, column, start, box, boxes,
                p_other_part, p_other_found, p_targets, targets, CLASSES,
            )  # fmt: skip


@triton.jit
def store_part(
    altered,  # (boxes of a tile, CLASSES) altered logits; -inf past the last class
    column,  # the classes
    start,  # the first of them
    box,  # the boxes of the tile
    boxes,  # how many there are
    p_parts,  # (2, boxes) float32 of this block of classes
    p_chosen,  # (T, boxes) float32
    p_targets,  # (T,)
    targets,
    CLASSES: tl.constexpr,
):  # fmt: skip
    """Store a block's part of each box's softmax, and the altered logits of the targets that lie in it.

    The part is the greatest logit m, and the rest r: the sum of exp(z - m) over all classes but one that has
    the greatest, so that the denominator is exp(m) × (1 + r) and r keeps its digits where it is small.
    """
    asked = box < boxes
    greatest = tl.max(tl.maximum(altered, LOWEST), 1)
    equal = altered == greatest[:, None]
    rest = tl.sum(tl.where(equal, 0.0, tl.exp(altered - greatest[:, None])), 1)
    rest += tl.sum(equal.to(tl.float32), 1) - 1
    tl.store(p_parts + box, greatest, asked)
    tl.store(p_parts + boxes + box, rest, asked)
    for t in range(targets):
        target = tl.load(p_targets + t)
        if (target >= start) & (target < start + CLASSES):
            found = tl.sum(tl.where(column[None, :] == target, altered, 0.0), 1)
            tl.store(p_chosen + box, found, asked)
        p_chosen += boxes


@triton.jit
def merge_parts(
    p_parts,  # (J, 2, Q) float32
    blocks,  # J
    every,  # Q
    box,  # those asked for
    asked,  # which of them exist
    BLOCKS: tl.constexpr,
    BOXES: tl.constexpr,
):  # fmt: skip
    """The greatest logit of all classes and the rest, see `store_part`, of each box.

    The rest is NaN where the greatest is infinite; where no class is possible it is -1, and 1 + r zero.
    """
    greatest = tl.full((BOXES,), LOWEST, tl.float32)
    rest = tl.full((BOXES,), -1.0, tl.float32)
    for start in range(0, blocks, BLOCKS):
        j = start + tl.arange(0, BLOCKS)
        inside = (j < blocks)[:, None] & asked[None, :]
        p_block = p_parts + j[:, None].to(tl.int64) * 2 * every + box[None, :]
        tops = tl.load(p_block, inside, other=LOWEST)
        rests = tl.load(p_block + every, inside, other=-1.0)
        most = tl.maximum(greatest, tl.max(tops, 0))
        equal, equals = greatest == most, tops == most[None, :]
        count = tl.sum(equals.to(tl.float32), 0) + equal.to(tl.float32)
        rest = tl.where(equal, rest, (1 + rest) * tl.exp(greatest - most))
        rest += tl.sum(tl.where(equals, rests, (1 + rests) * tl.exp(tops - most[None, :])), 0)
        rest += count - 1
        greatest = most
    return greatest, tl.where(greatest == float("inf"), float("nan"), rest)


@triton.jit
def _probabilities(
    p_parts,  # (N, D, J, 2, Q) float32
    blocks, every,  # J and Q
    p_chosen,  # (N, D, T, Q) float32
    targets,
    p_out,  # (D, N, P, T)
    boxes,
    BLOCKS: tl.constexpr,
    BOXES: tl.constexpr,
):  # fmt: skip
    n, d = tl.program_id(1).to(tl.int64), tl.program_id(2)
    box = tl.program_id(0) * BOXES + tl.arange(0, BOXES)
    asked = box < boxes
    row = n * tl.num_programs(2) + d
    greatest, rest = merge_parts(p_parts + row * blocks * 2 * every, blocks, every, box, asked, BLOCKS, BOXES)
    p_chosen += row * targets * every
    p_out += (d * tl.num_programs(1) + n) * boxes * targets
    for t in range(targets):
        probability = tl.exp(tl.load(p_chosen + box, asked, other=0) - greatest) / (1 + rest)
        tl.store(p_out + box.to(tl.int64) * targets + t, probability.to(p_out.dtype.element_ty), asked)
        p_chosen += every
