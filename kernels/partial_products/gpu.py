"""`partial_products` in Triton: see the README beside this file for its bytes and operations."""

from __future__ import annotations

from typing import Literal

import torch
import triton
import triton.language as tl

from camrt.kernels.tensor_checks import check_floats, check_output, on_device

__all__ = ["pack_weight", "partial_products"]

FEATURES = 128
"""Features of a tile of the weight."""
DEPTH_BYTES = 128
"""Bytes of the terms of a sum that are added at once."""
STAGES = 4
"""Of the pipeline: one tile of the weight is used while STAGES - 2 others are on their way."""


def pack_weight(weight: torch.Tensor) -> torch.Tensor:
    """Lay out a weight as `partial_products` reads it best: features next to each other.

    It is a copy, of as many bytes as the weight: for a while there are both. To be made once, when a model is
    loaded.

    Args:
        weight: Shape (F, K, L), any strides, any type.

    Returns:
        The same numbers with the same shape, in memory (L, K, F).
    """
    return weight.permute(2, 1, 0).contiguous().permute(2, 1, 0)


def partial_products(
    weight: torch.Tensor,
    u: torch.Tensor,
    *,
    by: Literal["cell", "channel"],
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute the partial products of a linear layer, by cell or by channel.

    - by "cell": out[n, l, f] = Σ_k weight[f, k, l] u[n, k, l]
    - by "channel": out[n, k, f] = Σ_l weight[f, k, l] u[n, k, l]

    The sum of either over its second axis is the layer's output without bias. Tensors may be float32, float16
    or bfloat16, each its own; sums are float32. A weight that `pack_weight` made is read from memory once for
    up to 32 images; for more, it is read from there or from cache once for each 32.

    Args:
        weight: Shape (F, K, L), any strides.
        u: Activations, shape (N, K, L), any strides. By cell they are copied, unless channels lie next to
            each other.
        by: Which index the products are split by.
        out: Written when given: shape (N, L, F) by cell, (N, K, F) by channel, contiguous.

    Returns:
        `out`, or a new tensor of float32.

    Raises:
        ValueError: An argument has a wrong type, shape, layout, device or value.
    """
    check_floats("weight", weight, "F K L")
    device = weight.device
    features, channels, cells = weight.shape
    if weight.numel() == 0:
        raise ValueError(f"weight must not be empty, got shape {tuple(weight.shape)}")
    check_floats("u", u, "N K L", device)
    if tuple(u.shape[1:]) != (channels, cells):
        raise ValueError(f"u must have shape (N, {channels}, {cells}), got {tuple(u.shape)}")
    if by not in ("cell", "channel"):
        raise ValueError(f"by must be 'cell' or 'channel', got {by!r}")
    images, kept = len(u), cells if by == "cell" else channels
    shape = (images, kept, features)
    if out is None:
        out = torch.empty(shape, dtype=torch.float32, device=device)
    else:
        check_output("out", out, shape, weight, u)
    if out.numel() == 0:
        return out
    if by == "cell":  # from here on the last axis is the one that is summed over
        weight, u = weight.mT, u.mT.contiguous()
    rows, depth = block_sizes(images, weight.element_size())
    groups, across = triton.cdiv(images, rows), triton.cdiv(features, FEATURES)
    with on_device(device):
        _multiply[(groups * across * kept,)](
            weight, *weight.stride(), u, *u.stride(),
            images, features, kept, u.shape[2], groups, across, out,
            AS_THEY_ARE=weight.dtype == u.dtype and device.type != "cpu",
            ROWS=rows, DEPTH=depth, FEATURES=FEATURES, num_stages=STAGES,
        )  # fmt: skip
    return out


def block_sizes(images: int, item: int) -> tuple[int, int]:
    """How many images a program takes, and how many terms of a sum it adds at once.

    Args:
        images: At least 1.
        item: Bytes of a number of the weight.
    """
    return 16 if images <= 16 else 32, DEPTH_BYTES // item


@triton.jit
def _multiply(
    p_weight,  # (F, I, R): I is kept, R is summed over
    stride_f, stride_i, stride_r,  # of the weight
    p_u,  # (N, I, R)
    stride_un, stride_ui, stride_ur,  # of u
    images, features, kept, terms,
    groups,  # of ROWS images
    across,  # tiles of features
    p_out,  # (N, I, F)
    AS_THEY_ARE: tl.constexpr,  # weight and u are of one type; the interpreter cannot multiply bfloat16s
    ROWS: tl.constexpr,  # images
    DEPTH: tl.constexpr,  # terms added at once
    FEATURES: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0) // groups  # groups that read the same weight run side by side
    i = (tile // across).to(tl.int64)
    n = (tl.program_id(0) % groups * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    f = (tile % across * FEATURES + tl.arange(0, FEATURES))[None, :]
    r = tl.arange(0, DEPTH)
    p_tile = p_weight + i * stride_i + r.to(tl.int64)[:, None] * stride_r + f.to(tl.int64) * stride_f
    p_rows = p_u + i * stride_ui + n * stride_un + r.to(tl.int64)[None, :] * stride_ur
    depth = tl.full((), DEPTH, tl.int64)
    total = tl.zeros((ROWS, FEATURES), tl.float32)
    for start in range(0, terms, DEPTH):
        left = terms - start
        w = tl.load(p_tile, (r < left)[:, None] & (f < features), other=0)
        v = tl.load(p_rows, (r < left)[None, :] & (n < images), other=0)
        if not AS_THEY_ARE:
            w, v = w.to(tl.float32), v.to(tl.float32)
        total = tl.dot(v, w, total, input_precision="tf32x3")
        p_tile += depth * stride_r
        p_rows += depth * stride_ur
    p_to = p_out + (n * kept + i) * features + f
    tl.store(p_to, total.to(p_out.dtype.element_ty), (n < images) & (f < features))
