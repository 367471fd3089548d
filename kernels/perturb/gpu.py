"""`perturb` and the ranks it goes by, in Triton and torch: see the README beside this file."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from camrt.kernels.tensor_checks import check_floats, check_indices, check_output, memory_format_of, on_device

__all__ = ["perturb", "ranks_of"]

TILE = (32, 32)
"""Rows, and pixels of a row (or pixels times channels of a channels-last output), that a program writes."""
STEPS = 8
"""How many images one program writes its tile of, at most."""
PROGRAMS = 2048
"""Programs write fewer images each where there would be fewer programs than these."""


def perturb(
    sheets: torch.Tensor,
    ranks: torch.Tensor,
    ranking: torch.Tensor,
    count: torch.Tensor,
    first: torch.Tensor,
    rest: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """Write out[b] = sheets[first[b]] where ranks[ranking[b]] < count[b], and sheets[rest[b]] elsewhere.

    As `camrt.kernels.perturb.perturb`. Tensors may be float32, float16 or bfloat16, each its own; numbers
    are copied, and rounded where `out` is of a narrower type. Indices are int32 or int64, each its own;
    int64 ranks are copied to int32 first, since each is read for many images.

    Args:
        sheets: Images and what replaces their pixels, shape (S, C, H, W), any strides.
        ranks: The place of each pixel in a ranking, 0 first, shape (R, H·W).
        ranking: Which ranking, shape (B,), in range.
        count: How many of its pixels are taken from `first`, shape (B,).
        first: Which sheet the pixels of the smallest ranks come from, shape (B,), in range.
        rest: Which sheet the others come from, shape (B,), in range.
        out: Written, shape (B, C, H, W), contiguous or channels-last.

    Raises:
        ValueError: An argument has a wrong type, shape, layout or device.
    """
    check_floats("sheets", sheets, "S C H W")
    device = sheets.device
    channels, height, width = sheets.shape[1:]
    ranks = check_indices("ranks", ranks, (-1, height * width), device).int()
    ranking = check_indices("ranking", ranking, (-1,), device)
    count = check_indices("count", count, tuple(ranking.shape), device)
    first = check_indices("first", first, tuple(ranking.shape), device)
    rest = check_indices("rest", rest, tuple(ranking.shape), device)
    check_output("out", out, (len(ranking), channels, height, width), sheets)
    if out.numel() == 0:
        return
    if min(len(sheets), len(ranks)) < 1:
        raise ValueError(f"{len(sheets)} sheets and {len(ranks)} rankings for {len(out)} images")
    last = memory_format_of("out", out) == "NHWC"
    alike = last and sheets.stride(1) == 1 and sheets.stride(3) == channels
    across = triton.cdiv(width * channels if last else width, TILE[1])
    tiles = triton.cdiv(height, TILE[0]) * across
    steps = min(max(len(out) * tiles // PROGRAMS, 1), STEPS)
    with on_device(device):
        _mix[(tiles * triton.cdiv(len(out), steps),)](
            sheets, *sheets.stride(), height, width, ranks, ranking, count, first, rest,
            len(out), steps, tiles, across, out,
            CHANNELS=channels, LAST=last, ALIKE=alike, ROWS=TILE[0], COLUMNS=TILE[1],
        )  # fmt: skip


def ranks_of(saliency: torch.Tensor) -> torch.Tensor:
    """The place of each pixel in its map's order, 0 for the most salient.

    Of equal values, zeros of either sign among them, the first in row-major order comes first. NaN comes
    after everything else: whether maps are finite is on the device, and for the caller to look at.

    Args:
        saliency: Shape (R, H, W), any strides.

    Returns:
        Shape (R, H·W), int32.

    Raises:
        ValueError: saliency has a wrong type or shape.
    """
    check_floats("saliency", saliency, "R H W")
    flat = saliency.reshape(len(saliency), saliency.shape[1] * saliency.shape[2])
    # Subtracted rather than negated: both zeros become the same one, for a sort that compares bits.
    order = torch.argsort(0 - flat, dim=1, stable=True)
    ranks = torch.empty(flat.shape, dtype=torch.int32, device=flat.device)
    places = torch.arange(flat.shape[1], dtype=torch.int32, device=flat.device)
    return ranks.scatter_(1, order, places.expand_as(ranks))


@triton.jit(do_not_specialize=["batch", "steps"])
def _mix(
    p_sheets,  # (S, C, H, W)
    stride_s, stride_c, stride_h, stride_w,  # of the sheets
    height, width,
    p_ranks,  # (R, H·W)
    p_ranking,  # (B,)
    p_count,  # (B,)
    p_first,  # (B,)
    p_rest,  # (B,)
    batch, steps,  # images, and how many of them a program writes its tile of
    tiles, across,  # tiles of an image, and of a row
    p_out,  # (B, C, H, W) contiguous, or channels-last
    CHANNELS: tl.constexpr,
    LAST: tl.constexpr,
    ALIKE: tl.constexpr,  # rows of the sheets lie as those of a channels-last output do
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0) % tiles
    begin = tl.program_id(0) // tiles * steps
    y = (tile // across * ROWS + tl.arange(0, ROWS))[:, None]
    column = (tile % across * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    if LAST:  # a column is a channel of a pixel, as they lie in the output
        x, c, columns = column // CHANNELS, column % CHANNELS, width * CHANNELS
    else:
        x, c, columns = column, 0, width
    inside = (y < height) & (column < columns)
    # Where a pixel is in a sheet; of LAST, its channel too.
    if ALIKE:
        at = y.to(tl.int64) * stride_h + column
    elif LAST:
        at = y.to(tl.int64) * stride_h + x.to(tl.int64) * stride_w + c.to(tl.int64) * stride_c
    else:
        at = y.to(tl.int64) * stride_h + x.to(tl.int64) * stride_w
    for step in range(begin, tl.minimum(begin + steps, batch)):
        b = tl.cast(step, tl.int64)
        p_rank = p_ranks + tl.load(p_ranking + b).to(tl.int64) * height * width
        taken = tl.load(p_rank + y * width + x, inside, other=0) < tl.load(p_count + b)
        # A row of the tile is read of a sheet if it has any pixel of that sheet. A mask of rows, unlike one
        # of pixels, leaves loads wide.
        of_first = inside & _any(inside & taken)
        of_rest = inside & _any(inside & ~taken)
        p_one = p_sheets + tl.load(p_first + b).to(tl.int64) * stride_s
        p_two = p_sheets + tl.load(p_rest + b).to(tl.int64) * stride_s
        p_to = p_out + b * CHANNELS * height * width
        for _ in tl.static_range(1 if LAST else CHANNELS):
            one, two = tl.load(p_one + at, of_first, other=0), tl.load(p_two + at, of_rest, other=0)
            chosen = tl.where(taken, one, two).to(p_out.dtype.element_ty)
            tl.store(p_to + y * columns + column, chosen, inside)
            p_one, p_two, p_to = p_one + stride_c, p_two + stride_c, p_to + height * width


@triton.jit
def _any(marks):
    """Of each row of a tile, whether anything is marked, (rows, 1)."""
    return tl.max(marks.to(tl.int32), axis=1, keep_dims=True) != 0
