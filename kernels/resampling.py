"""Bilinear resampling, separable, with the coordinates of `torch.nn.functional.interpolate`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from camrt.kernels.checks import Floats, check_map_size
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["axis_table", "bilinear"]


@ignore_float_errors
def axis_table(
    n_in: int, n_out: int, align_corners: bool = False, begin: float = 0.0, end: float | None = None
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Say where each output sample of one axis falls among the inputs.

    Output i lies at s = (i + 1/2) n_in / n_out - 1/2, not below 0, or at s = i (n_in - 1) / (n_out - 1) with
    `align_corners`. Where the inputs cover only the outputs from `begin` to `end`, edges between pixels, i
    counts from `begin`, and n_out is end - begin. Its value is (1 - t) x[lower] + t x[upper] with
    lower = floor(s) and t = s - lower.

    Args:
        n_in: Number of inputs, at least 1.
        n_out: Number of outputs, at least 1.
        align_corners: Whether the first and last samples of both coincide.
        begin: Where the inputs' first edge lies, in outputs.
        end: Where their last edge lies; None for the last output's. Before `begin`, they lie the other way.

    Returns:
        lower, upper and t, each of shape (n_out,).
    """
    i = np.arange(n_out, dtype=np.float64) - begin
    span = (n_out if end is None else end) - begin
    if align_corners:
        first = 0.5 * (1 - np.sign(span))  # where the first output lies, counted from `begin`
        steps = abs(span) - 1
        source = np.maximum((i + first) * (np.sign(span) * (n_in - 1) / steps if steps > 0 else 0.0), 0.0)
    else:
        source = np.maximum((i + 0.5) * (n_in / span) - 0.5, 0.0)
    lower = np.minimum(source, n_in - 1).astype(np.intp)
    upper = np.minimum(lower + 1, n_in - 1)
    return lower, upper, np.clip(source - lower, 0.0, 1.0)


@ignore_float_errors
def bilinear(x: Floats, size: tuple[int, int], align_corners: bool = False) -> Floats:
    """Resample the last two axes of an array bilinearly, without antialiasing.

    Args:
        x: Values, shape (..., h, w), float32 or float64.
        size: The size (H, W) of the result.
        align_corners: As in `axis_table`.

    Returns:
        The resampled values, shape (..., H, W), of the same type as x. A constant stays exactly constant.

    Raises:
        ValueError: One of the sizes is less than 1.
    """
    check_map_size("x", *x.shape[-2:])
    check_map_size("size", *size)
    left, right, t = axis_table(x.shape[-1], size[1], align_corners)
    above, below, s = axis_table(x.shape[-2], size[0], align_corners)
    rows = x[..., left] + t.astype(x.dtype) * (x[..., right] - x[..., left])
    result: Floats = rows[..., above, :] + s.astype(x.dtype)[:, None] * (
        rows[..., below, :] - rows[..., above, :]
    )
    return result
