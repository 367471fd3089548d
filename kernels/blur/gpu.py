"""`blur` in Triton: see the README beside this file for its bytes and operations."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import ArrayLike

from camrt.kernels import checks
from camrt.kernels.caches import cache_by_bytes
from camrt.kernels.tensor_checks import check_floats, on_device

__all__ = ["blur"]

GROUP = 16
"""Sums below one another that a thread forms at once, at most: a power of two, and not more than weights."""
TILE = (8, 32)
"""Groups below one another, and columns, that a program of two warps computes."""


def blur(images: torch.Tensor, weights: ArrayLike, border: Literal["mirror", "zero"]) -> torch.Tensor:
    """Weigh the neighbours in every column and then in every row by the same weights, in float32.

    As `camrt.kernels.blur.blur`, which computes in float64: here sums may differ from it in the last bits of
    float32, and what passes the range of float32 between the columns and the rows is infinite.

    Args:
        images: Shape (N, C, H, W), float32, float16 or bfloat16, any strides.
        weights: An odd number of weights, on the host.
        border: What lies beyond the border: "mirror", the image mirrored at its outermost pixels, which are
            not repeated; or "zero".

    Returns:
        The blurred images, of the shape and type of images; channels-last where the channels of a pixel
        and the pixels of a row of images are neighbours, otherwise contiguous.

    Raises:
        ValueError: An argument has a wrong type or shape, or weights reach further than the mirrored image.
    """
    check_floats("images", images, "N C H W")
    weights = checks.check_floats("weights", np.asarray(weights, np.float64), "any")
    if len(weights) % 2 == 0:
        raise ValueError(f"weights must be odd in number, got {len(weights)}")
    if border not in ("mirror", "zero"):
        raise ValueError(f"border must be 'mirror' or 'zero', got {border!r}")
    n, channels, height, width = images.shape
    if border == "mirror" and len(weights) // 2 >= min(height, width):
        raise ValueError(f"{len(weights)} weights reach beyond images of {height} x {width}")
    beside = channels if channels > 1 and images.stride(1) == 1 and images.stride(3) == channels else 1
    out = torch.empty(
        images.shape,
        dtype=images.dtype,
        device=images.device,
        memory_format=torch.channels_last if beside > 1 else torch.contiguous_format,
    )
    if out.numel() == 0:
        return out
    # Columns of what lies between lie along memory: each pass reads across its axis and writes along it.
    between = torch.empty((n, channels, width, height), dtype=torch.float32, device=images.device)
    between = between.transpose(2, 3)
    table = _table(weights.tobytes(), images.device)
    with on_device(images.device):
        _pass(images, between, table, border, beside)
        _pass(between.transpose(2, 3), out.transpose(2, 3), table, border, 1)
    return out


def _pass(images: torch.Tensor, out: torch.Tensor, table: torch.Tensor, border: str, beside: int) -> None:
    """Blur along the third axis; `beside` channels are taken with the fourth, as they lie in images."""
    n, channels, length, across = images.shape
    group = min(GROUP, 1 << (len(table).bit_length() - 1))
    rows, columns = TILE[0] * group, TILE[1]
    stride_n, stride_c, stride_y, stride_x = images.stride()
    tiles_x = triton.cdiv(across * beside, columns)
    tiles = triton.cdiv(length, rows) * tiles_x
    _blur[(tiles * n * (channels // beside),)](
        images, stride_n, stride_c, stride_y, stride_c if beside > 1 else stride_x,
        channels // beside, length, across * beside, tiles, tiles_x,
        table, len(table), out, *out.stride(),
        MIRROR=border == "mirror", BESIDE=beside, GROUP=group, ROWS=rows, COLUMNS=columns,
        num_warps=2,
    )  # fmt: skip


@cache_by_bytes()
def _table(weights: bytes, device: torch.device) -> torch.Tensor:
    """Weights, the bytes of float64, on a device as float32."""
    return torch.from_numpy(np.frombuffer(weights).astype(np.float32)).to(device)


@triton.jit
def _blur(
    p_from,  # (N, C, length, columns); or (N, 1, length, W·C), of pixels whose channels are neighbours
    stride_n, stride_c, stride_y, stride_x,  # of what is read
    planes, length, columns,  # planes: of an image
    tiles, across,  # tiles of a plane, and beside one another
    p_weights,  # (taps,) float32
    taps,
    p_to,  # (N, C, length, W)
    to_n, to_c, to_y, to_x,  # strides of what is written
    MIRROR: tl.constexpr,
    BESIDE: tl.constexpr,  # channels of a pixel that lie in a row of what is read
    GROUP: tl.constexpr,  # a power of two, not more than taps
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0) % tiles
    plane = tl.program_id(0) // tiles
    n, c = (plane // planes).to(tl.int64), (plane % planes).to(tl.int64)
    top = tile // across * ROWS
    column = tile % across * COLUMNS + tl.arange(0, COLUMNS)
    here = (column < columns)[None, :]
    p_column = p_from + n * stride_n + c * stride_c + (column.to(tl.int64) * stride_x)[None, :]
    # A thread has the sums of GROUP rows below one another. Of the rows that they need, the one read at a
    # step goes into sum g with weight step - g, as long as there is such a weight.
    first = (top + tl.arange(0, ROWS // GROUP) * GROUP - taps // 2)[:, None]
    sums = (tl.zeros((ROWS // GROUP, COLUMNS), tl.float32),) * GROUP
    recent = sums[:0]  # the last weights, GROUP - 1 at most, newest first
    for step in tl.static_range(GROUP - 1):
        row = _row(p_column, first + step, stride_y, length, here, MIRROR)
        recent = (tl.load(p_weights + step),) + recent  # noqa: RUF005 (Triton unpacks no tuples)
        sums = _added(sums, row, recent, 0, step + 1, GROUP)
    for step in tl.range(GROUP - 1, taps, loop_unroll_factor=4):
        row = _row(p_column, first + step, stride_y, length, here, MIRROR)
        weights = (tl.load(p_weights + step),) + recent  # noqa: RUF005 (Triton unpacks no tuples)
        sums = _added(sums, row, weights, 0, GROUP, GROUP)
        recent = weights[: GROUP - 1]
    for after in tl.static_range(GROUP - 1):
        row = _row(p_column, first + taps + after, stride_y, length, here, MIRROR)
        sums = _added(sums, row, recent, after + 1, GROUP, GROUP)
    made = tl.reshape(_joined(sums, GROUP), (ROWS // GROUP, COLUMNS, GROUP))
    made = tl.reshape(tl.trans(made, 1, 0, 2), (COLUMNS, ROWS))
    y = top + tl.arange(0, ROWS)
    x, beside = column // BESIDE, column % BESIDE
    p_place = p_to + n * to_n + c * to_c + top.to(tl.int64) * to_y
    p_place += (x.to(tl.int64) * to_x + beside.to(tl.int64) * to_c)[:, None]
    tl.store(
        p_place + (tl.arange(0, ROWS).to(tl.int64) * to_y)[None, :],
        made.to(p_to.dtype.element_ty),
        (column < columns)[:, None] & (y < length)[None, :],
    )


@triton.jit
def _row(p_column, y, stride_y, length, here, MIRROR: tl.constexpr):
    """Rows y of the columns, mirrored or zero beyond the border."""
    if MIRROR:
        y = tl.abs(y)
        y = tl.minimum(y, 2 * (length - 1) - y)
    inside = here & (y >= 0) & (y < length)
    return tl.load(p_column + y.to(tl.int64) * stride_y, inside, other=0).to(tl.float32)


@triton.jit
def _added(sums, row, weights, START: tl.constexpr, END: tl.constexpr, GROUP: tl.constexpr):
    """The sums, with the row added to START to END - 1 of them by the weights in their order."""
    made = sums[:0]
    for g in tl.static_range(GROUP):
        if g >= START and g < END:
            made += (sums[g] + weights[g - START] * row,)
        else:
            made += (sums[g],)
    return made


@triton.jit
def _joined(sums, GROUP: tl.constexpr):
    """GROUP tensors as one, with log2(GROUP) more axes of 2 that count them, the last one fastest."""
    if GROUP > 1:
        pairs = sums[:0]
        for g in tl.static_range(GROUP // 2):
            pairs += (tl.join(sums[g], sums[g + GROUP // 2]),)
        made = _joined(pairs, GROUP // 2)
    else:
        made = sums[0]
    return made
