"""Bilinear samples of small maps in Triton, with the coordinates of `camrt.kernels.resampling`."""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl

from camrt.kernels.caches import cache_by_bytes
from camrt.kernels.resampling import axis_table

__all__ = ["cell_steps", "extreme_pixels", "locate_cells", "sample"]


@cache_by_bytes()
def extreme_pixels(cells: int, pixels: int, align_corners: bool, device: torch.device) -> torch.Tensor:
    """The pixels of an axis among which every upsampled map has its extremes: see masked_batch/README.md.

    Returns:
        int32, at most twice as many as cells: the first and the last pixel between each two cells.
    """
    lower, _, _ = axis_table(cells, pixels, align_corners)
    changes = np.flatnonzero(np.diff(lower))
    chosen = np.unique(np.concatenate([[0], changes, changes + 1, [pixels - 1]]))
    return torch.from_numpy(chosen.astype(np.int32)).to(device)


def cell_steps(cells: tuple[int, int], size: tuple[int, int], align_corners: bool) -> tuple[float, float]:
    """How many cells a pixel's step is worth, down and across."""
    if align_corners:
        steps = [(n - 1) / (out - 1) if out > 1 else 0.0 for n, out in zip(cells, size, strict=True)]
    else:
        steps = [n / out for n, out in zip(cells, size, strict=True)]
    return steps[0], steps[1]


@triton.jit
def sample(
    p_map,  # (h, w)
    y, x,  # pixels
    inside,  # which of them are asked for
    h, w,
    stride_h, stride_w,
    scale_h, scale_w,
    ALIGN: tl.constexpr,
):  # fmt: skip
    """The map at pixels, in float32; a constant stays exactly constant."""
    top, bottom, s = locate_cells(y, h, scale_h, ALIGN)
    left, right, t = locate_cells(x, w, scale_w, ALIGN)
    above, below = p_map + top * stride_h, p_map + bottom * stride_h
    a = tl.load(above + left * stride_w, inside, other=0).to(tl.float32)
    b = tl.load(above + right * stride_w, inside, other=0).to(tl.float32)
    c = tl.load(below + left * stride_w, inside, other=0).to(tl.float32)
    d = tl.load(below + right * stride_w, inside, other=0).to(tl.float32)
    first, second = a + t * (b - a), c + t * (d - c)
    return first + s * (second - first)


@triton.jit
def locate_cells(i, n, scale, ALIGN: tl.constexpr):
    """The cells before and after pixels of one axis, and how far they are from the first."""
    if ALIGN:  # noqa: SIM108 (a compile-time branch)
        source = i.to(tl.float32) * scale
    else:
        source = tl.maximum((i.to(tl.float32) + 0.5) * scale - 0.5, 0.0)
    lower = tl.minimum(source.to(tl.int32), n - 1)
    return (
        lower,
        tl.minimum(lower + 1, n - 1),
        tl.minimum(tl.maximum(source - lower.to(tl.float32), 0.0), 1.0),
    )
