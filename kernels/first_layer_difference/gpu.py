"""`first_layer_boxes` and `first_layer_channels` in Triton: see the README beside this file."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from camrt.kernels.tensor_checks import check_floats, check_indices, check_output, on_device

__all__ = ["first_layer_boxes", "first_layer_channels"]

RESULTS = 8
"""Results that a program finds one after another where it sums boxes."""
FEATURES = (512, 2048)
"""Features of each of them, at least and at most: 16 a thread."""
CHANNELS = (8, 512)
"""Results and features of a program that looks up channels."""


def first_layer_boxes(
    start: torch.Tensor,
    partial: torch.Tensor,
    batch_index: torch.Tensor,
    boxes: torch.Tensor,
    out: torch.Tensor,
    *,
    keep: bool,
) -> None:
    """Write the layer's answer with a box of cells set to zero, or with all others set to zero.

    - keep False: out[b] = start[batch_index[b]] - Σ_{cells in boxes[b]} partial[batch_index[b], cell]
    - keep True: out[b] = start[batch_index[b]] + Σ_{cells in boxes[b]} partial[batch_index[b], cell]

    Tensors may be float32, float16 or bfloat16, each its own; sums are float32. It is fastest where boxes
    that overlap follow each other.

    Args:
        start: The layer's answers, shape (N, F), or one for all images (F,), any strides: to the whole
            input without keep, to an input of zeros (the bias) with it.
        partial: What each cell adds to the answer, shape (N, h, w, F), any strides.
        batch_index: Which image, shape (B,), in range.
        boxes: Half-open boxes (r0, c0, r1, c1), one a result, shape (B, 4), within the map.
        out: Written, shape (B, F), contiguous.
        keep: Whether the box is what is kept.

    Raises:
        ValueError: An argument has a wrong type, shape, layout or device.
    """
    check_floats("partial", partial, "N h w F")
    device = partial.device
    start = _start(start, partial)
    batch_index = check_indices("batch_index", batch_index, (-1,), device)
    boxes = check_indices("boxes", boxes, (len(batch_index), 4), device)
    features = partial.shape[3]
    check_output("out", out, (len(batch_index), features), start, partial)
    if out.numel() == 0:
        return
    columns = min(max(triton.next_power_of_2(features), FEATURES[0]), FEATURES[1])
    across = triton.cdiv(features, columns)
    with on_device(device):
        _boxes[(triton.cdiv(len(batch_index), RESULTS) * across,)](
            start, *start.stride(), partial, *partial.stride(), batch_index, boxes,
            len(batch_index), features, across, out,
            KEEP=bool(keep), RESULTS=RESULTS, FEATURES=columns, num_warps=columns // FEATURES[0],
        )  # fmt: skip


def first_layer_channels(
    start: torch.Tensor,
    partial: torch.Tensor,
    batch_index: torch.Tensor,
    channel: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """Write the layer's answer with a channel set to zero.

    out[b] = start[batch_index[b]] - partial[batch_index[b], channel[b]].

    Tensors may be float32, float16 or bfloat16, each its own; everything is computed in float32.

    Args:
        start: The layer's answers to the whole input, shape (N, F), or one for all (F,), any strides.
        partial: What each channel adds to the answer, shape (N, K, F), any strides.
        batch_index: Which image, shape (B,), in range.
        channel: Which channel to take away, shape (B,), in range.
        out: Written, shape (B, F), contiguous.

    Raises:
        ValueError: An argument has a wrong type, shape, layout or device.
    """
    check_floats("partial", partial, "N K F")
    device = partial.device
    start = _start(start, partial)
    batch_index = check_indices("batch_index", batch_index, (-1,), device)
    channel = check_indices("channel", channel, tuple(batch_index.shape), device)
    features = partial.shape[2]
    check_output("out", out, (len(batch_index), features), start, partial)
    if out.numel() == 0:
        return
    rows, columns = CHANNELS
    across = triton.cdiv(features, columns)
    with on_device(device):
        _channels[(triton.cdiv(len(batch_index), rows) * across,)](
            start, *start.stride(), partial, *partial.stride(), batch_index, channel,
            len(batch_index), features, across, out, ROWS=rows, COLUMNS=columns,
        )  # fmt: skip


def _start(start: torch.Tensor, partial: torch.Tensor) -> torch.Tensor:
    """The answers to begin with, (N, F), as a view where there is one for all."""
    single = isinstance(start, torch.Tensor) and start.ndim == 1
    check_floats("start", start, "F" if single else "N F", partial.device)
    n, features = len(partial), partial.shape[-1]
    if tuple(start.shape) not in ((n, features), (features,)):
        raise ValueError(
            f"start must have shape ({n}, {features}) or ({features},), got {tuple(start.shape)}"
        )
    return start.expand(n, features)


@triton.jit
def _boxes(
    p_start,  # (N, F)
    stride_sn, stride_sf,  # of the answers to begin with
    p_partial,  # (N, h, w, F)
    stride_n, stride_h, stride_w, stride_f,  # of the partial products
    p_batch,  # (B,)
    p_boxes,  # (B, 4)
    results, features,
    across,  # tiles of features
    p_out,  # (B, F)
    KEEP: tl.constexpr,
    RESULTS: tl.constexpr,  # of a program
    FEATURES: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) // across * RESULTS
    f = tl.program_id(0) % across * FEATURES + tl.arange(0, FEATURES)
    inside = f < features
    p_start += f.to(tl.int64) * stride_sf
    p_partial += f.to(tl.int64) * stride_f
    p_out += f
    for result in range(first, tl.minimum(first + RESULTS, results)):
        b = tl.cast(result, tl.int64)
        n = tl.load(p_batch + b).to(tl.int64)
        p_box = p_boxes + 4 * b
        top, left = tl.load(p_box).to(tl.int32), tl.load(p_box + 1).to(tl.int32)
        bottom, right = tl.load(p_box + 2).to(tl.int32), tl.load(p_box + 3).to(tl.int32)
        value = tl.load(p_start + n * stride_sn, inside, other=0).to(tl.float32)
        wide = right - left
        p_cell = p_partial + (n * stride_n + top.to(tl.int64) * stride_h + left.to(tl.int64) * stride_w)
        turn = stride_h - wide.to(tl.int64) * stride_w  # from the end of a box's row to its next
        held = tl.zeros((FEATURES,), tl.float32)
        x = 0
        for _ in range((bottom - top) * wide):
            held += tl.load(p_cell, inside, other=0).to(tl.float32)
            x += 1
            p_cell += stride_w + tl.where(x == wide, turn, 0)
            x = tl.where(x == wide, 0, x)
        held = held if KEEP else -held
        tl.store(p_out + b * features, (value + held).to(p_out.dtype.element_ty), inside)


@triton.jit
def _channels(
    p_start,  # (N, F)
    stride_sn, stride_sf,  # of the answers to begin with
    p_partial,  # (N, K, F)
    stride_n, stride_k, stride_f,  # of the partial products
    p_batch,  # (B,)
    p_channel,  # (B,)
    results, features,
    across,  # tiles of features
    p_out,  # (B, F)
    ROWS: tl.constexpr,  # results
    COLUMNS: tl.constexpr,  # features
):  # fmt: skip
    b = (tl.program_id(0) // across * ROWS + tl.arange(0, ROWS))[:, None]
    f = (tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    asked = b < results
    inside = asked & (f < features)
    b = b.to(tl.int64)
    n = tl.load(p_batch + b, asked, other=0).to(tl.int64)
    k = tl.load(p_channel + b, asked, other=0).to(tl.int64)
    p_from = p_start + n * stride_sn + f.to(tl.int64) * stride_sf
    p_less = p_partial + n * stride_n + k * stride_k + f.to(tl.int64) * stride_f
    result = tl.load(p_from, inside, other=0).to(tl.float32) - tl.load(p_less, inside, other=0).to(tl.float32)
    tl.store(p_out + b * features + f, result.to(p_out.dtype.element_ty), inside)
