"""`saliency` in Triton: see the README beside this file for its bytes and operations."""

from __future__ import annotations

from typing import Any, Literal

import torch
import triton
import triton.language as tl

from camrt.kernels.checks import check_map_size
from camrt.kernels.resampling_gpu import cell_steps, extreme_pixels, locate_cells
from camrt.kernels.saliency import MapFlag
from camrt.kernels.tensor_checks import check_floats, on_device

__all__ = ["rows_per_group", "saliency"]

CELLS, MAPS = 2048, 4
"""Cells of how many maps a program looks at together, at most; a larger map has a program to itself, which
looks at 4 × CELLS at once with four times the threads."""
CACHED = 2**24
"""Bytes of raw maps that are looked at before they are sampled: so many stay in the second-level cache."""
TILE = (16, 32)
"""Groups of rows, and pixels of a row, that a program writes."""

OK = tl.constexpr(int(MapFlag.OK))
CONSTANT = tl.constexpr(int(MapFlag.CONSTANT))
NOTHING_POSITIVE = tl.constexpr(int(MapFlag.NOTHING_POSITIVE))
NOT_FINITE = tl.constexpr(int(MapFlag.NOT_FINITE))
EPSILON = tl.constexpr(1e-7)
LARGE, SMALL = tl.constexpr(2.0**64), tl.constexpr(2.0**-64)


def saliency(
    raw: torch.Tensor,
    size: tuple[int, int],
    *,
    mode: Literal["native", "library"] = "native",
    normalisation: Literal["max", "minmax"] = "max",
    relu: bool = True,
    align_corners: bool = False,
    out: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rectify, normalise and upsample raw maps, as `camrt.kernels.saliency.saliency` does.

    Everything is computed in float32.

    Args:
        raw: Raw maps, shape (M, h, w), float32, float16 or bfloat16, any strides.
        size: The size (H, W) of the images.
        mode: Which of the two procedures.
        normalisation: "max" or "minmax", in mode "native".
        relu: False to leave negative values in place before normalisation.
        align_corners: The convention of the upsampling; see `camrt.kernels.resampling`.
        out: Where the maps are written, shape (M, H, W), float32 or float16; None makes a tensor of float32.

    Returns:
        The maps, shape (M, H, W), and one `MapFlag` value a map, shape (M,), uint8.

    Raises:
        ValueError: An argument has a wrong type, shape or value.
    """
    check_floats("raw", raw, "M h w")
    device = raw.device
    count, h, w = raw.shape
    check_map_size("raw", h, w)
    height, width = size = check_options(size, mode, normalisation)
    shape = (count, height, width)
    if out is not None and tuple(out.shape) != shape:
        raise ValueError(f"out must have shape {shape}, got {tuple(out.shape)}")
    if out is None or out.dtype != torch.float32 or not out.is_contiguous():
        maps = torch.empty(shape, dtype=torch.float32, device=device)
    else:
        maps = out
    flags = torch.empty(count, dtype=torch.uint8, device=device)
    if count == 0:
        return maps, flags
    ranges = torch.empty((count, 4), dtype=torch.float32, device=device)
    how = {"LIBRARY": mode == "library", "MINMAX": normalisation == "minmax", "RELU": bool(relu)}
    large = h * w > CELLS
    cells = min(triton.next_power_of_2(h * w), 4 * CELLS if large else CELLS)
    together = 1 if large else min(CELLS // cells, MAPS)
    group = rows_per_group(h, height, align_corners)
    across = triton.cdiv(width, TILE[1])
    tiles = triton.cdiv(height, TILE[0] * group) * across
    dense = raw.stride(1) == w * raw.stride(2)
    places = sampling_arguments((h, w), size, align_corners, device)
    chunk = max(1, CACHED // (16 * h * w * raw.element_size())) * 16
    with on_device(device):
        for begin in range(0, count, chunk):
            some = slice(begin, begin + chunk)
            number = len(raw[some])
            _judge[(triton.cdiv(number, together),)](
                raw[some], *raw.stride(), number, h, w, h * w, *places, flags[some], ranges[some],
                **how, ALIGN=align_corners, DENSE=dense, MAPS=together, CELLS=cells,
                num_warps=16 if large else 4,
            )  # fmt: skip
            _write[(number * tiles,)](
                raw[some], *raw.stride(), h, w, ranges[some], *places[-2:], height, width, tiles, across,
                maps[some], **how, ALIGN=align_corners, GROUP=group, ROWS=TILE[0], COLUMNS=TILE[1],
            )  # fmt: skip
    return maps if out is None or out is maps else out.copy_(maps), flags


def check_options(size: tuple[int, int], mode: str, normalisation: str) -> tuple[int, int]:
    """Check how maps are to be made, and how large.

    Args:
        size: The size (H, W) of the images.
        mode: "native" or "library".
        normalisation: "max" or "minmax".

    Returns:
        The size.

    Raises:
        ValueError: One of them is not understood.
    """
    if len(size) != 2:
        raise ValueError(f"size must be (H, W), got {size}")
    check_map_size("size", *size)
    if mode not in ("native", "library"):
        raise ValueError(f"mode must be 'native' or 'library', got {mode!r}")
    if normalisation not in ("max", "minmax"):
        raise ValueError(f"normalisation must be 'max' or 'minmax', got {normalisation!r}")
    return int(size[0]), int(size[1])


def sampling_arguments(
    cells: tuple[int, int], size: tuple[int, int], align_corners: bool, device: torch.device
) -> tuple[Any, ...]:
    """The arguments of kernels that say where samples lie and have their extremes.

    Returns:
        The rows of pixels among which the extremes are, and how many; the columns likewise; the two scales.
    """
    rows, columns = (extreme_pixels(cells[axis], size[axis], align_corners, device) for axis in (0, 1))
    return rows, len(rows), columns, len(columns), *cell_steps(cells, size, align_corners)


def rows_per_group(h: int, height: int, align_corners: bool) -> int:
    """How many rows of pixels to write at once: 1, 2, 4 or 8, which span no more than one step of cells."""
    step, _ = cell_steps((h, 1), (height, 1), align_corners)
    return max(group for group in (1, 2, 4, 8) if group == 1 or (group - 1) * step <= 1)


@triton.jit
def _judge(
    p_raw,  # (M, h, w)
    stride_m, stride_h, stride_w,  # of the raw maps
    count, h, w, cells,  # M; h × w
    p_rows, rows,  # the rows of pixels among which the extremes are, and how many
    p_columns, columns,
    scale_h, scale_w,
    p_flags,  # (M,) uint8
    p_ranges,  # (M, 4) float32: what `judge_maps` returns besides the flag
    LIBRARY: tl.constexpr,
    MINMAX: tl.constexpr,
    RELU: tl.constexpr,
    ALIGN: tl.constexpr,
    DENSE: tl.constexpr,
    MAPS: tl.constexpr,
    CELLS: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64) * MAPS + tl.arange(0, MAPS)
    there = m < count
    p_maps = p_raw + m * stride_m
    low = tl.full((MAPS, CELLS), float("inf"), tl.float32)
    high = tl.full((MAPS, CELLS), float("-inf"), tl.float32)
    broken = tl.zeros((MAPS, CELLS), tl.int32)
    for start in range(0, cells, CELLS):
        cell = (start + tl.arange(0, CELLS))[None, :]
        inside = there[:, None] & (cell < cells)
        offset = cell_offsets(cell, w, stride_h, stride_w, DENSE)
        value = tl.load(p_maps[:, None] + offset, inside, other=0).to(tl.float32)
        low, high, broken = widen_range(low, high, broken, value, inside)
    flag, base, scale, floor, factor = judge_maps(
        p_maps, there, low, high, broken, h, w, stride_h, stride_w,
        p_rows, rows, p_columns, columns, scale_h, scale_w, LIBRARY, MINMAX, RELU, ALIGN, MAPS,
    )  # fmt: skip
    tl.store(p_flags + m, flag.to(tl.uint8), there)
    tl.store(p_ranges + 4 * m, base, there)
    tl.store(p_ranges + 4 * m + 1, scale, there)
    tl.store(p_ranges + 4 * m + 2, floor, there)
    tl.store(p_ranges + 4 * m + 3, factor, there)


@triton.jit
def _write(
    p_raw,  # (M, h, w)
    stride_m, stride_h, stride_w,  # of the raw maps
    h, w,
    p_ranges,  # (M, 4) float32
    scale_h, scale_w,
    height, width,
    tiles, across,  # of a map, and of a row of it
    p_maps,  # (M, H, W) float32
    LIBRARY: tl.constexpr,
    MINMAX: tl.constexpr,
    RELU: tl.constexpr,
    ALIGN: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    m = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    p_range = p_ranges + 4 * m + tl.zeros((1, 1), tl.int32)
    base, scale = tl.load(p_range), tl.load(p_range + 1)
    floor, factor = tl.load(p_range + 2), tl.load(p_range + 3)
    y = ((tile // across * ROWS + tl.arange(0, ROWS)) * GROUP)[:, None]
    x = (tile % across * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    write_rows(
        p_raw + m * stride_m, y, x, True, h, w, stride_h, stride_w, scale_h, scale_w,
        base, scale, floor, factor, height, width, p_maps + m * height * width,
        LIBRARY, MINMAX, RELU, ALIGN, GROUP,
    )  # fmt: skip


@triton.jit
def cell_offsets(cell, w, stride_h, stride_w, DENSE: tl.constexpr):
    """Where cells of a map lie, counted along its rows; DENSE where each row begins at the last one's end."""
    if DENSE:
        return cell.to(tl.int64) * stride_w
    return (cell // w).to(tl.int64) * stride_h + (cell % w).to(tl.int64) * stride_w


@triton.jit
def widen_range(low, high, broken, value, inside):
    """The least and the greatest so far, lane by lane, and whether there was a value that is not finite."""
    low = tl.where(inside, tl.minimum(low, value), low)
    high = tl.where(inside, tl.maximum(high, value), high)
    broken |= (inside & ~(tl.abs(value) < float("inf"))).to(tl.int32)
    return low, high, broken


@triton.jit
def judge_maps(
    p_maps,  # (B,) where raw maps begin
    there,  # (B,) which of them there are
    low, high, broken,  # (B, .) what `widen_range` found
    h, w,
    stride_h, stride_w,
    p_rows, rows, p_columns, columns, scale_h, scale_w,  # see `sampling_arguments`
    LIBRARY: tl.constexpr,
    MINMAX: tl.constexpr,
    RELU: tl.constexpr,
    ALIGN: tl.constexpr,
    MAPS: tl.constexpr,
):  # fmt: skip
    """What becomes of raw maps: their flags, and the four numbers with which `write_rows` writes them."""
    least, greatest = tl.min(low, 1), tl.max(high, 1)
    by_max: tl.constexpr = not (LIBRARY or MINMAX)
    flag = tl.full((MAPS,), OK, tl.int32)
    if by_max and not RELU:
        flag = tl.where(tl.abs(tl.div_rn(least, greatest)) < float("inf"), flag, NOT_FINITE)
    if by_max or RELU:
        flag = tl.where(greatest <= 0, NOTHING_POSITIVE, flag)
    flag = tl.where(least == greatest, CONSTANT, flag)
    flag = tl.where((tl.max(broken, 1) != 0) | ~(greatest - least < float("inf")), NOT_FINITE, flag)
    alive = there & (flag == OK)
    base = tl.zeros((MAPS,), tl.float32)
    if not by_max:
        base = tl.where(alive, tl.maximum(least, 0.0) if RELU else least, 0.0)
    extent = tl.where(alive, greatest - base, 1.0)
    # what is very small or very large is brought nearer to 1, or 1 / extent would have no place in float32
    scale = tl.where(extent < 2.0**-100, LARGE, tl.where(extent > 2.0**100, SMALL, 1.0))
    floor = tl.zeros((MAPS,), tl.float32)
    if LIBRARY:
        p_map, off, by = p_maps[:, None, None], base[:, None, None], scale[:, None, None]
        smallest = tl.full((MAPS, 16, 16), float("inf"), tl.float32)
        largest = tl.full((MAPS, 16, 16), float("-inf"), tl.float32)
        for begin in range(0, rows, 16):
            i = (begin + tl.arange(0, 16))[None, :, None]
            y = tl.load(p_rows + i, i < rows, other=0)
            for start in range(0, columns, 16):
                j = (start + tl.arange(0, 16))[None, None, :]
                x = tl.load(p_columns + j, j < columns, other=0)
                inside = alive[:, None, None] & (i < rows) & (j < columns)
                value = _samples(
                    p_map, y, x, inside, h, w, stride_h, stride_w, scale_h, scale_w, off, by,
                    True, RELU, ALIGN,
                )  # fmt: skip
                smallest = tl.where(inside, tl.minimum(smallest, value), smallest)
                largest = tl.where(inside, tl.maximum(largest, value), largest)
        floor = tl.where(alive, tl.min(tl.min(smallest, 2), 1), 0.0)
        spread = tl.where(alive, tl.max(tl.max(largest, 2), 1) - floor, 1.0)
        once = tl.div_rn(1.0, (extent + EPSILON) * scale)
        factor = tl.div_rn(once, spread * once + EPSILON)
    else:
        factor = tl.div_rn(1.0, extent * scale)
    return flag, base, scale, floor, tl.where(alive, factor, 0.0)


@triton.jit
def write_rows(
    p_map,  # a raw map (h, w), or several
    y, x,  # the first of GROUP rows of pixels each, and pixels of a row
    there,  # which maps are written
    h, w,
    stride_h, stride_w,
    scale_h, scale_w,
    base, scale, floor, factor,  # see `judge_maps`
    height, width,
    p_to,  # a map (H, W), or several
    LIBRARY: tl.constexpr,
    MINMAX: tl.constexpr,
    RELU: tl.constexpr,
    ALIGN: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """Write saliency at pixels: GROUP rows of them, which lie between three rows of cells at most."""
    shift: tl.constexpr = LIBRARY or MINMAX
    seen = ((y < height) & (x < width)) & (factor > 0)
    p_to += y * width + x
    if GROUP == 1:
        value = _samples(
            p_map, y, x, seen, h, w, stride_h, stride_w, scale_h, scale_w, base, scale, shift, RELU, ALIGN
        )
        if LIBRARY:
            value -= floor
        value = tl.minimum(tl.maximum(value * factor, 0.0), 1.0)
        tl.store(p_to, value, (y < height) & (x < width) & there)
    else:
        top, middle, _ = locate_cells(y, h, scale_h, ALIGN)
        left, right, t = locate_cells(x, w, scale_w, ALIGN)
        bottom = tl.minimum(middle + 1, h - 1)
        a = _between(p_map, top, left, right, t, seen, stride_h, stride_w, base, scale, shift, RELU)
        b = _between(p_map, middle, left, right, t, seen, stride_h, stride_w, base, scale, shift, RELU)
        c = _between(p_map, bottom, left, right, t, seen, stride_h, stride_w, base, scale, shift, RELU)
        step, next_step = (b - a) * factor, (c - b) * factor
        if LIBRARY:
            a -= floor
        a *= factor
        for row in tl.static_range(GROUP):
            lower, _, s = locate_cells(y + row, h, scale_h, ALIGN)
            s += lower.to(tl.float32) - top.to(tl.float32)
            value = a + tl.minimum(s, 1.0) * step + tl.minimum(tl.maximum(s - 1, 0.0), 1.0) * next_step
            value = tl.minimum(tl.maximum(value, 0.0), 1.0)
            tl.store(p_to + row * width, value, (y + row < height) & (x < width) & there)


@triton.jit
def _samples(
    p_map,  # (h, w), or several
    y, x,  # pixels
    seen,  # which of them are asked for
    h, w,
    stride_h, stride_w,
    scale_h, scale_w,
    base, scale,
    SHIFT: tl.constexpr,
    RELU: tl.constexpr,
    ALIGN: tl.constexpr,
):  # fmt: skip
    """What `camrt.kernels.resampling_gpu.sample` returns, of cells as `_cells` has them."""
    top, bottom, s = locate_cells(y, h, scale_h, ALIGN)
    left, right, t = locate_cells(x, w, scale_w, ALIGN)
    a = _between(p_map, top, left, right, t, seen, stride_h, stride_w, base, scale, SHIFT, RELU)
    b = _between(p_map, bottom, left, right, t, seen, stride_h, stride_w, base, scale, SHIFT, RELU)
    return a + s * (b - a)


@triton.jit
def _between(
    p_map, row, left, right, t, seen, stride_h, stride_w, base, scale, SHIFT: tl.constexpr, RELU: tl.constexpr
):
    """Of a row of cells, what lies between two columns."""
    p_row = p_map + row.to(tl.int64) * stride_h
    a = _cells(p_row + left.to(tl.int64) * stride_w, seen, base, scale, SHIFT, RELU)
    b = _cells(p_row + right.to(tl.int64) * stride_w, seen, base, scale, SHIFT, RELU)
    return a + t * (b - a)


@triton.jit
def _cells(
    p_cells,
    seen,
    base,  # taken off
    scale,  # multiplied by, a power of two
    SHIFT: tl.constexpr,  # whether base is taken off
    RELU: tl.constexpr,  # whether negative cells count as zero
):
    value = tl.load(p_cells, seen, other=0).to(tl.float32)
    if RELU:
        value = tl.maximum(value, 0.0)
    if SHIFT:
        value -= base
    return value * scale
