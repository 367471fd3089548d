"""`masked_batch` in Triton: see the README beside this file for its bytes and operations."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import triton
import triton.language as tl

from camrt.kernels.resampling_gpu import cell_steps, extreme_pixels, sample
from camrt.kernels.tensor_checks import check_floats, check_indices, check_output, memory_format_of, on_device

__all__ = ["masked_batch"]

RANGE_BLOCK = 256
"""Cells or samples of a map whose least and greatest are taken at once."""
TILE = (32, 32)
"""Rows, and pixels of a row (or pixels times channels of a channels-last output), that a program writes."""


def masked_batch(
    activations: torch.Tensor,
    images: torch.Tensor,
    batch_index: torch.Tensor,
    channel: torch.Tensor,
    out: torch.Tensor,
    *,
    order: Literal["upsample-first", "normalise-first"] = "upsample-first",
    align_corners: bool = False,
    epsilon: float = 0.0,
) -> torch.Tensor:
    """Write out[b] = images[batch_index[b]] × m_b, where m_b is a mask made of one activation map.

    The masks are those of `camrt.kernels.masked_batch.masked_batch`. Tensors may be float32, float16 or
    bfloat16, each its own; everything is computed in float32.

    Args:
        activations: A, shape (N, K, h, w), any strides.
        images: Shape (N, C, H, W), any strides.
        batch_index: Which image, shape (B,), in range.
        channel: Which channel of its activations, shape (B,), in range.
        out: Written, shape (B, C, H, W), contiguous or channels-last.
        order: Which of the two masks.
        align_corners: The convention of the upsampling; see `camrt.kernels.resampling`.
        epsilon: Added to the range before dividing, not negative.

    Returns:
        Shape (B,): whether the mask was zeros.

    Raises:
        ValueError: An argument has a wrong type, shape, layout, device or value.
    """
    check_floats("activations", activations, "N K h w")
    device = activations.device
    check_floats("images", images, "N C H W", device)
    n, _, h, w = activations.shape
    if images.shape[0] != n:
        raise ValueError(f"images must hold {n} images like activations, got {images.shape[0]}")
    channels, height, width = images.shape[1:]
    if min(h, w, height, width) < 1:
        raise ValueError(f"maps {h} x {w} and images {height} x {width} must not be empty")
    batch_index = check_indices("batch_index", batch_index, (-1,), device)
    channel = check_indices("channel", channel, tuple(batch_index.shape), device)
    check_output("out", out, (len(batch_index), channels, height, width), activations, images)
    if order not in ("upsample-first", "normalise-first"):
        raise ValueError(f"order must be 'upsample-first' or 'normalise-first', got {order!r}")
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"epsilon must be finite and not negative, got {epsilon}")
    if out.numel() == 0:
        return torch.zeros(len(batch_index), dtype=torch.bool, device=device)
    ranges = torch.empty((len(batch_index), 2), dtype=torch.float32, device=device)
    samples = order == "upsample-first"
    rows, columns = (
        extreme_pixels(cells, pixels, align_corners, device) for cells, pixels in ((h, height), (w, width))
    )
    scale_h, scale_w = cell_steps((h, w), (height, width), align_corners)
    maps: tuple[Any, ...] = (activations, batch_index, channel, *activations.stride(), h, w)
    with on_device(device):
        _ranges[(len(batch_index),)](
            *maps, rows, len(rows), columns, len(columns), scale_h, scale_w, epsilon, ranges,
            SAMPLES=samples, ALIGN=align_corners, BLOCK=RANGE_BLOCK,
        )  # fmt: skip
        last = memory_format_of("out", out) == "NHWC"
        across = triton.cdiv(width * channels if last else width, TILE[1])
        tiles = triton.cdiv(height, TILE[0]) * across
        _write[(tiles * len(batch_index),)](
            *maps, ranges, scale_h, scale_w, images, *images.stride(), height, width, tiles, across, out,
            CHANNELS=channels, LAST=last, ALIGN=align_corners, ROWS=TILE[0], COLUMNS=TILE[1],
        )  # fmt: skip
    return ranges[:, 1] == 0


@triton.jit
def _ranges(
    p_maps,  # (N, K, h, w)
    p_batch,  # (B,)
    p_channel,  # (B,)
    stride_n, stride_k, stride_h, stride_w,  # of the maps
    h, w,
    p_rows, rows,  # the rows of pixels among which the extremes are, and how many
    p_columns, columns,
    scale_h, scale_w, epsilon,
    p_ranges,  # (B, 2) float32: what becomes the mask's zero, and what divides it; 0 for a mask of zeros
    SAMPLES: tl.constexpr,  # the range is over the upsampled map
    ALIGN: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    p_map = (
        p_maps + tl.load(p_batch + b).to(tl.int64) * stride_n + tl.load(p_channel + b).to(tl.int64) * stride_k
    )
    low = tl.full((BLOCK,), float("inf"), tl.float32)
    high = tl.full((BLOCK,), float("-inf"), tl.float32)
    broken = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, h * w, BLOCK):
        cell = start + tl.arange(0, BLOCK)
        inside = cell < h * w
        value = tl.load(p_map + cell // w * stride_h + cell % w * stride_w, inside, other=0).to(tl.float32)
        broken |= (inside & ~(tl.abs(value) < float("inf"))).to(tl.int32)
        low = tl.where(inside, tl.minimum(low, value), low)
        high = tl.where(inside, tl.maximum(high, value), high)
    least, greatest = tl.min(low), tl.max(high)
    spread = greatest - least
    dead = (tl.max(broken) != 0) | (spread == 0) | (spread == float("inf"))
    if SAMPLES:
        low = tl.full((BLOCK,), float("inf"), tl.float32)
        high = tl.full((BLOCK,), float("-inf"), tl.float32)
        for start in range(0, rows * columns, BLOCK):
            corner = start + tl.arange(0, BLOCK)
            inside = corner < rows * columns
            y = tl.load(p_rows + corner // columns, inside, other=0)
            x = tl.load(p_columns + corner % columns, inside, other=0)
            value = sample(p_map, y, x, inside, h, w, stride_h, stride_w, scale_h, scale_w, ALIGN)
            low = tl.where(inside, tl.minimum(low, value), low)
            high = tl.where(inside, tl.maximum(high, value), high)
        least, greatest = tl.min(low), tl.max(high)
        spread = greatest - least
        dead |= spread == 0
    tl.store(p_ranges + 2 * b, least)
    tl.store(p_ranges + 2 * b + 1, tl.where(dead, 0.0, spread + epsilon))


@triton.jit
def _write(
    p_maps,  # (N, K, h, w)
    p_batch,  # (B,)
    p_channel,  # (B,)
    stride_n, stride_k, stride_h, stride_w,  # of the maps
    h, w,
    p_ranges,  # (B, 2)
    scale_h, scale_w,
    p_images,  # (N, C, H, W)
    stride_pn, stride_pc, stride_ph, stride_pw,  # of the images
    height, width,
    tiles, across,  # of an image, and of a row of it
    p_out,  # (B, C, H, W) contiguous, or channels-last
    CHANNELS: tl.constexpr,
    LAST: tl.constexpr,
    ALIGN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    n = tl.load(p_batch + b).to(tl.int64)
    p_map = p_maps + n * stride_n + tl.load(p_channel + b).to(tl.int64) * stride_k
    p_image = p_images + n * stride_pn
    p_to = p_out + b * CHANNELS * height * width
    low, spread = tl.load(p_ranges + 2 * b), tl.load(p_ranges + 2 * b + 1)
    dead = spread == 0
    y = (tile // across * ROWS + tl.arange(0, ROWS))[:, None]
    column = (tile % across * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    if LAST:  # a column is a channel of a pixel, as they lie in the output
        x, c, columns = column // CHANNELS, column % CHANNELS, width * CHANNELS
    else:
        x, c, columns = column, 0, width
    inside = (y < height) & (column < columns)
    value = sample(p_map, y, x, inside, h, w, stride_h, stride_w, scale_h, scale_w, ALIGN)
    mask = tl.div_rn(value - low, tl.where(dead, 1.0, spread))
    mask = tl.minimum(tl.maximum(mask, 0.0), 1.0)
    p_from = p_image + y * stride_ph + x * stride_pw
    if LAST:
        seen = tl.load(p_from + c * stride_pc, inside, other=0).to(tl.float32)
        result = tl.where(dead, 0.0, seen * mask).to(p_out.dtype.element_ty)
        tl.store(p_to + y * columns + column, result, inside)
    else:
        for c in tl.static_range(CHANNELS):
            seen = tl.load(p_from + c * stride_pc, inside, other=0).to(tl.float32)
            result = tl.where(dead, 0.0, seen * mask).to(p_out.dtype.element_ty)
            tl.store(p_to + c * height * width + y * width + column, result, inside)
