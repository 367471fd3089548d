"""`weighted_map` in Triton: see the README beside this file for its bytes and operations."""

from __future__ import annotations

from typing import Any, Literal

import torch
import triton
import triton.language as tl

from camrt.kernels.checks import check_map_size
from camrt.kernels.saliency.gpu import (
    cell_offsets,
    check_options,
    judge_maps,
    rows_per_group,
    sampling_arguments,
    widen_range,
    write_rows,
)
from camrt.kernels.tensor_checks import check_floats, on_device

__all__ = ["weighted_map"]

WARPS = 8
CELLS, CELLS_LAST = 256, 64
"""Cells that a program sums at once, at most, and where channels lie side by side; a larger map is summed in
rounds."""
STEPS = 4
"""Times 16 bytes of activations that a thread asks for before it waits, if it has one target."""
TARGETS = 4
"""Targets that share what is read, at most."""
PROGRAMS = 2
"""Programs that each of the device's processors must have before targets share what is read."""
TILE = (32, 32)
"""Groups of rows of all targets, and pixels of a row, that are written at once."""


def weighted_map(
    activations: torch.Tensor,
    weights: torch.Tensor,
    size: tuple[int, int],
    *,
    mode: Literal["native", "library"] = "native",
    normalisation: Literal["max", "minmax"] = "max",
    relu: bool = True,
    align_corners: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sum the channels of activations with weights, and make saliency maps of the sums.

    This is `camrt.kernels.weighted_map.weighted_map` in one kernel. Activations and weights may be float32,
    float16 or bfloat16, each its own, with any strides; everything is computed in float32.

    Args:
        activations: A, shape (N, K, h, w).
        weights: Shape (N, T, K): T targets of each image.
        size: The size (H, W) of the images.
        mode: See `camrt.kernels.saliency.saliency`.
        normalisation: See there.
        relu: See there.
        align_corners: The convention of the upsampling; see `camrt.kernels.resampling`.

    Returns:
        The maps, shape (N, T, H, W), float32; one `MapFlag` value each, shape (N, T), uint8; the sums, shape
        (N, T, h, w), float32.

    Raises:
        ValueError: An argument has a wrong type, shape, device or value.
    """
    check_floats("activations", activations, "N K h w")
    device = activations.device
    n, channels, h, w = activations.shape
    check_map_size("activations", h, w)
    check_floats("weights", weights, "N T K", device)
    if weights.shape[0] != n or weights.shape[2] != channels:
        raise ValueError(
            f"weights must have shape ({n}, T, {channels}) like activations, got {tuple(weights.shape)}"
        )
    targets = weights.shape[1]
    height, width = size = check_options(size, mode, normalisation)
    maps = torch.empty((n, targets, height, width), dtype=torch.float32, device=device)
    raw = torch.empty((n, targets, h, w), dtype=torch.float32, device=device)
    flags = torch.empty((n, targets), dtype=torch.uint8, device=device)
    if flags.numel() == 0:
        return maps, flags, raw
    block = _block(activations, targets, height * width)
    blocks = triton.cdiv(targets, block["TARGETS"])
    with on_device(device):
        _weighted_map[(n * blocks,)](
            activations, *activations.stride(), channels, h, w, h * w, weights, *weights.stride(), targets,
            blocks, raw, flags, *sampling_arguments((h, w), size, align_corners, device), height, width, maps,
            LIBRARY=mode == "library", MINMAX=normalisation == "minmax", RELU=bool(relu), ALIGN=align_corners,
            **block, GROUP=rows_per_group(h, height, align_corners),
            ROWS=TILE[0] // block["TARGETS"], COLUMNS=TILE[1], num_warps=WARPS,
        )  # fmt: skip
    return maps, flags, raw


def _block(activations: torch.Tensor, targets: int, pixels: int) -> dict[str, Any]:
    """What a program takes at once, and how it reads it: the kernel's compile-time arguments."""
    device, (n, _, h, w) = activations.device, activations.shape
    _, stride_k, stride_h, stride_w = activations.stride()
    processors = (
        torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 0
    )
    together = min(triton.next_power_of_2(targets), TARGETS)
    while together > 1 and n * triton.cdiv(targets, together) < PROGRAMS * processors:
        together //= 2
    run, threads, cells = 16 // activations.element_size(), 32 * WARPS, triton.next_power_of_2(h * w)
    dense = stride_h == w * stride_w
    flat = dense and stride_w == 1 and stride_k == h * w and run <= h * w <= CELLS
    flat = flat and threads * run // cells * h * w <= pixels
    last = stride_k == 1 and not flat
    cells = min(cells, CELLS_LAST if last else CELLS)
    channels = threads * (run if flat or last or together == 1 else 4) // cells
    return {
        "FLAT": flat,
        "DENSE": dense,
        "TARGETS": together,
        "CELLS": cells,
        "CHANNELS": channels,
        "STEPS": STEPS // together,
        "RUN": run,
    }


@triton.jit
def _weighted_map(
    p_activations,  # (N, K, h, w)
    stride_n, stride_k, stride_h, stride_w,  # of the activations
    channels, h, w, cells,  # K; h × w
    p_weights,  # (N, T, K)
    stride_wn, stride_wt, stride_wk,  # of the weights
    targets, blocks,  # T, and blocks of targets
    p_raw,  # (N, T, h, w) float32
    p_flags,  # (N, T) uint8
    p_rows, rows,  # the rows of pixels among which the extremes are, and how many
    p_columns, columns,
    scale_h, scale_w,
    height, width,
    p_maps,  # (N, T, H, W) float32
    LIBRARY: tl.constexpr,
    MINMAX: tl.constexpr,
    RELU: tl.constexpr,
    ALIGN: tl.constexpr,
    FLAT: tl.constexpr,  # see `_flat_sums`
    DENSE: tl.constexpr,  # see `cell_offsets`
    TARGETS: tl.constexpr,
    CELLS: tl.constexpr,
    CHANNELS: tl.constexpr,
    STEPS: tl.constexpr,
    RUN: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    n = (tl.program_id(0) // blocks).to(tl.int64)
    t = (tl.program_id(0) % blocks).to(tl.int64) * TARGETS + tl.arange(0, TARGETS)
    there = t < targets
    p_image = p_activations + n * stride_n
    p_target = p_weights + n * stride_wn + tl.minimum(t, targets - 1) * stride_wt
    p_map = p_raw + (n * targets + t) * cells
    p_to = p_maps + (n * targets + t) * height * width
    low = tl.full((TARGETS, CELLS), float("inf"), tl.float32)
    high = tl.full((TARGETS, CELLS), float("-inf"), tl.float32)
    broken = tl.zeros((TARGETS, CELLS), tl.int32)
    if FLAT:
        sums = _flat_sums(
            p_image, p_target, p_to, there, channels, cells, stride_wk, TARGETS, CELLS, CHANNELS, STEPS, RUN
        )
        low, high, broken = _kept(p_map, there, 0, cells, sums, low, high, broken, CELLS)
    else:
        for start in range(0, cells, CELLS):
            sums = _sums(
                p_image, p_target, start, channels, w, cells, stride_k, stride_h, stride_w, stride_wk,
                DENSE, TARGETS, CELLS, CHANNELS, STEPS,
            )  # fmt: skip
            low, high, broken = _kept(p_map, there, start, cells, sums, low, high, broken, CELLS)
    tl.debug_barrier()  # what other threads have stored is sampled now
    flag, base, scale, floor, factor = judge_maps(
        p_map, there, low, high, broken, h, w, w, 1,
        p_rows, rows, p_columns, columns, scale_h, scale_w, LIBRARY, MINMAX, RELU, ALIGN, TARGETS,
    )  # fmt: skip
    tl.store(p_flags + n * targets + t, flag.to(tl.uint8), there)
    there, p_map, p_to = there[:, None, None], p_map[:, None, None], p_to[:, None, None]
    base, scale = base[:, None, None], scale[:, None, None]
    floor, factor = floor[:, None, None], factor[:, None, None]
    for left in range(0, width, COLUMNS):
        x = (left + tl.arange(0, COLUMNS))[None, None, :]
        for top in range(0, height, ROWS * GROUP):
            y = (top + tl.arange(0, ROWS) * GROUP)[None, :, None]
            write_rows(
                p_map, y, x, there, h, w, w, 1, scale_h, scale_w, base, scale, floor, factor,
                height, width, p_to, LIBRARY, MINMAX, RELU, ALIGN, GROUP,
            )  # fmt: skip


@triton.jit
def _kept(p_map, there, start, cells, sums, low, high, broken, CELLS: tl.constexpr):
    """Store sums (TARGETS, CELLS) in the raw maps, and widen the ranges by them."""
    cell = start + tl.arange(0, CELLS)[None, :]
    inside = there[:, None] & (cell < cells)
    tl.store(p_map[:, None] + cell, sums, inside)
    return widen_range(low, high, broken, sums, inside)


@triton.jit
def _flat_sums(
    p_image,  # (K, h, w), contiguous
    p_target,  # (TARGETS,) where the weights of targets begin
    p_scratch,  # (TARGETS,) where CHANNELS × cells numbers of each may be put
    there,  # (TARGETS,)
    channels, cells,
    stride_wk,
    TARGETS: tl.constexpr,
    CELLS: tl.constexpr,  # at least as many as a map has
    CHANNELS: tl.constexpr,
    STEPS: tl.constexpr,
    RUN: tl.constexpr,  # numbers that a thread reads at once, at most as many as a map has cells
):  # fmt: skip
    """Sums (TARGETS, CELLS) over the channels of maps that lie one after the other, read along memory.

    A step takes CHANNELS maps as `cells` rows of CHANNELS numbers. Every step finds the same cell at the same
    place, so that sums can be kept for each place, and folded at the end.
    """
    row = tl.arange(0, CELLS)[None, :, None, None]
    place = row * CHANNELS + tl.arange(0, CHANNELS // RUN)[None, None, :, None] * RUN
    channel = place // cells  # of the first number of a run; that of the others is this, or the next one
    place += tl.arange(0, RUN)[None, None, None, :]
    same = place < (channel + 1) * cells
    p_target = p_target[:, None, None, None]
    total = tl.zeros((TARGETS, CELLS, CHANNELS // RUN, RUN), tl.float32)
    for begin in range(0, channels, CHANNELS * STEPS):
        for step in tl.static_range(STEPS):
            k = begin + step * CHANNELS
            inside = (row < cells) & (place < (channels - k) * cells)
            value = tl.load(p_image + k * cells + place, inside, other=0).to(tl.float32)
            p_channel = p_target + (k + channel).to(tl.int64) * stride_wk
            weight = tl.load(p_channel, k + channel < channels, other=0).to(tl.float32)
            next_weight = tl.load(p_channel + stride_wk, k + channel + 1 < channels, other=0).to(tl.float32)
            total += value * tl.where(same, weight, next_weight)
    tl.store(p_scratch[:, None, None, None] + place, total, there[:, None, None, None] & (row < cells))
    tl.debug_barrier()
    cell, lane = tl.arange(0, CELLS)[None, :, None], tl.arange(0, CHANNELS)[None, None, :]
    held = there[:, None, None] & (cell < cells)
    return tl.sum(tl.load(p_scratch[:, None, None] + lane * cells + cell, held, other=0), 2)


@triton.jit
def _sums(
    p_image,  # (K, h, w)
    p_target,  # (TARGETS,) where the weights of targets begin
    start,  # the first cell
    channels, w, cells,
    stride_k, stride_h, stride_w,
    stride_wk,
    DENSE: tl.constexpr,
    TARGETS: tl.constexpr,
    CELLS: tl.constexpr,
    CHANNELS: tl.constexpr,
    STEPS: tl.constexpr,
):  # fmt: skip
    """Sums (TARGETS, CELLS) over the channels of maps with any strides, read along what lies side by side."""
    cell = start + tl.arange(0, CELLS)[None, :, None]
    lane = tl.arange(0, CHANNELS)[None, None, :]
    far = lane.to(tl.int64)
    p_target = p_target[:, None, None]
    p_cell = p_image + cell_offsets(cell, w, stride_h, stride_w, DENSE)
    total = tl.zeros((TARGETS, CELLS, CHANNELS), tl.float32)
    for begin in range(0, channels, CHANNELS * STEPS):
        for step in tl.static_range(STEPS):
            k = begin + step * CHANNELS
            inside = lane < channels - k
            value = tl.load(p_cell + (k + far) * stride_k, (cell < cells) & inside, other=0).to(tl.float32)
            total += value * tl.load(p_target + (k + far) * stride_wk, inside, other=0).to(tl.float32)
    return tl.sum(total, 2)
