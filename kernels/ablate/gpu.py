"""`ablate_channels` and `ablate_boxes` in Triton: see the README beside this file for what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl

from camrt.kernels.tensor_checks import check_floats, check_indices, check_output, memory_format_of, on_device

__all__ = ["Tiles", "ablate_boxes", "ablate_channels", "locate", "maps_of_elements", "tiles_of"]

TILE_BYTES = 2048
"""Bytes of a tile's row: 16 of each of 128 threads."""
TILE_ROWS = 8
"""Rows of such a tile, each read and written 16 bytes at a time."""


def ablate_channels(
    activations: torch.Tensor, batch_index: torch.Tensor, channel: torch.Tensor, out: torch.Tensor
) -> None:
    """Write out[b] = activations[batch_index[b]] with channel[b] set to zero.

    Tensors may be float32, float16 or bfloat16, each its own. Activations that lie as `out` does are read
    16 bytes at a time.

    Args:
        activations: A, shape (N, K, h, w), any strides.
        batch_index: Which image, shape (B,), in range.
        channel: Which channel to ablate, shape (B,), in range.
        out: Written, shape (B, K, h, w), contiguous or channels-last.

    Raises:
        ValueError: An argument has a wrong type, shape, layout or device.
    """
    check_floats("activations", activations, "N K h w")
    batch_index = check_indices("batch_index", batch_index, (-1,), activations.device)
    channel = check_indices("channel", channel, tuple(batch_index.shape), activations.device)
    _launch(activations, batch_index, channel, out, boxes=False, keep=False)


def ablate_boxes(
    activations: torch.Tensor,
    batch_index: torch.Tensor,
    boxes: torch.Tensor,
    out: torch.Tensor,
    *,
    keep: bool,
) -> None:
    """Write out[b] = activations[batch_index[b]] with the cells of boxes[b], or all others, set to zero.

    Tensors may be float32, float16 or bfloat16, each its own. Activations that lie as `out` does are read
    16 bytes at a time.

    Args:
        activations: A, shape (N, K, h, w), any strides.
        batch_index: Which image, shape (B,), in range.
        boxes: Half-open boxes (r0, c0, r1, c1), one a result, shape (B, 4), within the map.
        out: Written, shape (B, K, h, w), contiguous or channels-last.
        keep: False to zero the cells of the box, True to zero the cells outside it; in all channels.

    Raises:
        ValueError: An argument has a wrong type, shape, layout or device.
    """
    check_floats("activations", activations, "N K h w")
    batch_index = check_indices("batch_index", batch_index, (-1,), activations.device)
    boxes = check_indices("boxes", boxes, (len(batch_index), 4), activations.device)
    _launch(activations, batch_index, boxes, out, boxes=True, keep=bool(keep))


@dataclass(frozen=True)
class Tiles:
    """How the results (B, C, cells) of a batch are cut into tiles.

    A result is seen as rows, as they lie in memory: a row is the channels of a cell of a channels-last
    result, and else the maps of a group of channels.

    Attributes:
        group: Channels in a row that is not of a single cell.
        units: Vectors in a row.
        size: Elements of a result.
        across: Tiles of a row.
        count: Tiles of a result.
        vector: Elements of a vector, which has at most one border between two maps in it.
        rows: Rows of a tile.
        columns: Elements of a row of a tile.
    """

    group: int
    units: int
    size: int
    across: int
    count: int
    vector: int
    rows: int
    columns: int


@lru_cache(maxsize=256)
def tiles_of(channels: int, cells: int, *, last: bool, item: int) -> Tiles:
    """Choose tiles of 16 KiB, or less for small results, so that few of their places stay empty.

    Args:
        channels: Of a result, at least 1.
        cells: Of a map, at least 1.
        last: Whether channels lie next to each other in memory.
        item: Bytes of an element of the result.
    """
    widest = TILE_BYTES // item
    sides = [widest, widest // 2, widest // 4]
    if last:
        vector, rows = 1, [(0, channels)]
        sides += [widest * 2, widest * 4, widest * TILE_ROWS]
    else:
        vector = 16 // item if cells >= 16 // item else 1
        least = 16 if vector == 1 else vector  # so many maps end where 16 bytes do
        most = triton.cdiv(channels, least)
        first = min(most, max(1, widest // (least * cells)))
        groups = [least * count for count in range(first, min(most, first + 7) + 1)]
        rows = [(group, group * cells) for group in groups]
    size = channels * cells
    choices = []
    for group, width in rows:
        for side in sides:
            columns = min(side, triton.next_power_of_2(width))
            down, across = triton.cdiv(size, width), triton.cdiv(width, columns)
            height = min(TILE_ROWS * widest // columns, triton.next_power_of_2(down))
            count = triton.cdiv(down, height) * across
            choices.append(Tiles(group, width // vector, size, across, count, vector, height, columns))
    # What a program does besides moving elements costs it about as much as moving 2 * widest of them.
    return min(choices, key=lambda tiles: tiles.count * (tiles.rows * tiles.columns + 2 * widest))


def _launch(
    activations: torch.Tensor,
    batch_index: torch.Tensor,
    chosen: torch.Tensor,
    out: torch.Tensor,
    *,
    boxes: bool,
    keep: bool,
) -> None:
    shape = tuple(activations.shape[1:])
    check_output("out", out, (len(batch_index), *shape), activations)
    if out.numel() == 0:
        return
    channels, h, w = shape
    last = memory_format_of("out", out) == "NHWC"
    tiles = tiles_of(channels, h * w, last=last, item=out.element_size())
    one = activations[0]
    dense = (one.permute(1, 2, 0) if last else one).is_contiguous()
    with on_device(activations.device):
        _ablate[(tiles.count * len(batch_index),)](
            activations, batch_index, chosen, *activations.stride(), h * w, w,
            tiles.group, tiles.units, tiles.size, tiles.across, tiles.count, out,
            BOXES=boxes, KEEP=keep, DENSE=dense, LAST=last,
            VECTOR=tiles.vector, ROWS=tiles.rows, COLUMNS=tiles.columns,
        )  # fmt: skip


@triton.jit
def _ablate(
    p_maps,  # (N, K, h, w)
    p_batch,  # (B,)
    p_chosen,  # (B,): channels, or (B, 4): boxes
    stride_n, stride_k, stride_h, stride_w,  # of the maps
    cells, w,
    group, units, size, across, count,  # see Tiles
    p_out,  # (B, K, h, w) contiguous, or channels-last
    BOXES: tl.constexpr,
    KEEP: tl.constexpr,  # what is in the box, not what is outside it
    DENSE: tl.constexpr,  # each image's maps lie as a result does
    LAST: tl.constexpr,
    VECTOR: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    b, row, first, step, index, inside = locate(units, size, across, count, VECTOR, ROWS, COLUMNS)
    if LAST:
        channel, cell = first, row
    else:
        channel, later, cell = maps_of_elements(first, step, cells)
        channel += row * group + later.to(tl.int32)
    y, x = cell // w, cell % w
    p_from = p_maps + tl.load(p_batch + b).to(tl.int64) * stride_n
    if DENSE:
        p_from += index
    else:
        p_from += channel.to(tl.int64) * stride_k + y.to(tl.int64) * stride_h + x.to(tl.int64) * stride_w
    value = tl.load(p_from, inside, other=0).to(tl.float32).to(p_out.dtype.element_ty)
    if BOXES:
        p_box = p_chosen + 4 * b
        top, left = tl.load(p_box).to(tl.int32), tl.load(p_box + 1).to(tl.int32)
        bottom, right = tl.load(p_box + 2).to(tl.int32), tl.load(p_box + 3).to(tl.int32)
        zero = ((y >= top) & (y < bottom) & (x >= left) & (x < right)) != KEEP
    else:
        zero = channel == tl.load(p_chosen + b).to(tl.int32)
    tl.store(p_out + b * size + index, tl.where(zero, 0.0, value), inside)


@triton.jit
def locate(
    units, size, across, count,  # see Tiles
    VECTOR: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Which elements a program writes, as vectors of its rows: (ROWS, COLUMNS / VECTOR, VECTOR).

    Returns: the result, as int64; the elements' rows; the place in the row of each vector's first element,
    and of the others after it; the elements' places in the result, and which of them exist.
    """
    tile = tl.program_id(0) % count
    row = (tile // across * ROWS + tl.arange(0, ROWS))[:, None, None]
    first = tile % across * COLUMNS + tl.arange(0, COLUMNS // VECTOR)[None, :, None] * VECTOR
    step = tl.arange(0, VECTOR)[None, None, :]
    width = units * VECTOR
    index = row * width + first + step
    inside = (first < width) & (index < size)
    return (tl.program_id(0) // count).to(tl.int64), row, first, step, index, inside


@triton.jit
def maps_of_elements(first, step, cells):
    """Which maps of a row the elements of its vectors are of: at most two a vector.

    Returns: the map of the first element; whether an element is of the map after that; its cell.
    """
    before = first // cells
    cell = first - before * cells + step
    later = cell >= cells
    return before, later, tl.where(later, cell - cells, cell)
