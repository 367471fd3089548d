"""`rank_one` in Triton: see the README beside this file for its bytes and operations."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from camrt.kernels.ablate.gpu import locate, maps_of_elements, tiles_of
from camrt.kernels.tensor_checks import check_floats, check_indices, check_output, on_device

__all__ = ["rank_one"]


def rank_one(
    base: torch.Tensor,
    weight: torch.Tensor,
    activations: torch.Tensor,
    batch_index: torch.Tensor,
    channel: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """Write out[b, f, l] = base[n,f,l] - weight[k,f] activations[n,k,l], n, k = batch_index[b], channel[b].

    Tensors may be float32, float16 or bfloat16, each its own; everything is computed in float32. A base that
    lies as `out` does is read 16 bytes at a time.

    Args:
        base: The layer's output for the whole input, shape (N, F, L), any strides.
        weight: The layer's weight, transposed, shape (K, F), any strides.
        activations: The layer's input, shape (N, K, L), any strides.
        batch_index: Which image, shape (B,), in range.
        channel: Which channel to take away, shape (B,), in range.
        out: Written, shape (B, F, L), contiguous, or with its last two axes the other way round in memory, as
            those of a channels-last tensor are.

    Raises:
        ValueError: An argument has a wrong type, shape, layout or device.
    """
    check_floats("base", base, "N F L")
    device = base.device
    check_floats("weight", weight, "K F", device)
    check_floats("activations", activations, "N K L", device)
    n, features, cells = base.shape
    if weight.shape[1] != features:
        raise ValueError(f"weight must have shape (K, {features}) to match base, got {tuple(weight.shape)}")
    if tuple(activations.shape) != (n, weight.shape[0], cells):
        raise ValueError(
            f"activations must have shape {(n, weight.shape[0], cells)}, got {tuple(activations.shape)}"
        )
    batch_index = check_indices("batch_index", batch_index, (-1,), device)
    channel = check_indices("channel", channel, tuple(batch_index.shape), device)
    shape = (len(batch_index), features, cells)
    check_floats("out", out, "B F L", device)
    last = tuple(out.shape) == shape and out.mT.is_contiguous() and (cells == 1 or not out.is_contiguous())
    if last:
        check_output("out", out.mT, (len(batch_index), cells, features), base, weight, activations)
    else:
        check_output("out", out, shape, base, weight, activations)
    if out.numel() == 0:
        return
    tiles = tiles_of(features, cells, last=last, item=out.element_size())
    dense = (base[0].mT if last else base[0]).is_contiguous()
    with on_device(device):
        _rank_one[(tiles.count * len(batch_index),)](
            base, *base.stride(), weight, *weight.stride(), activations, *activations.stride(),
            batch_index, channel, features, cells,
            tiles.group, tiles.units, tiles.size, tiles.across, tiles.count, out,
            DENSE=dense, LAST=last, VECTOR=tiles.vector, ROWS=tiles.rows, COLUMNS=tiles.columns,
        )  # fmt: skip


@triton.jit
def _rank_one(
    p_base,  # (N, F, L)
    stride_n, stride_f, stride_l,  # of the base
    p_weight,  # (K, F)
    stride_wk, stride_wf,  # of the weight
    p_maps,  # (N, K, L)
    stride_mn, stride_mk, stride_ml,  # of the maps
    p_batch,  # (B,)
    p_channel,  # (B,)
    features, cells,
    group, units, size, across, count,  # see Tiles
    p_out,  # (B, F, L) contiguous, or features last
    DENSE: tl.constexpr,  # each image's base lies as a result does
    LAST: tl.constexpr,
    VECTOR: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    b, row, first, step, index, inside = locate(units, size, across, count, VECTOR, ROWS, COLUMNS)
    n, k = tl.load(p_batch + b).to(tl.int64), tl.load(p_channel + b).to(tl.int64)
    p_column = p_weight + k * stride_wk
    p_map = p_maps + n * stride_mn + k * stride_mk
    if LAST:
        feature, cell = first.to(tl.int64), row.to(tl.int64)
        factor = tl.load(p_column + feature * stride_wf, feature < features, other=0).to(tl.float32)
        value = tl.load(p_map + cell * stride_ml, cell < cells, other=0).to(tl.float32)
    else:
        before, later, cell = maps_of_elements(first, step, cells)
        before += row * group
        p_before = p_column + before.to(tl.int64) * stride_wf
        factor = tl.load(p_before, before < features, other=0).to(tl.float32)
        if VECTOR > 1:
            after = tl.load(p_before + stride_wf, before + 1 < features, other=0).to(tl.float32)
            factor = tl.where(later, after, factor)
        feature, cell = before.to(tl.int64) + later.to(tl.int64), cell.to(tl.int64)
        value = tl.load(p_map + cell * stride_ml).to(tl.float32)
    if DENSE:
        p_from = p_base + n * stride_n + index
    else:
        p_from = p_base + n * stride_n + feature * stride_f + cell * stride_l
    result = tl.load(p_from, inside, other=0).to(tl.float32) - factor * value
    tl.store(p_out + b * size + index, result.to(p_out.dtype.element_ty), inside)
