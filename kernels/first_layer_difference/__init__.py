"""The first linear layer's answer after an ablation, from its partial products: no layer is run again."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from camrt.kernels.checks import Floats, check_boxes, check_floats, check_indices, check_output
from camrt.kernels.dispatch import dispatched
from camrt.kernels.first_layer_difference import reference
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["first_layer_boxes", "first_layer_channels"]


@dispatched()
@ignore_float_errors
def first_layer_boxes(
    start: Floats, partial: Floats, batch_index: ArrayLike, boxes: ArrayLike, out: Floats, *, keep: bool
) -> None:
    """Write the layer's answer with a box of cells set to zero, or with all others set to zero.

    - keep False: out[b] = start[batch_index[b]] - Σ_{cells in boxes[b]} partial[batch_index[b], cell]
    - keep True: out[b] = start[batch_index[b]] + Σ_{cells in boxes[b]} partial[batch_index[b], cell]

    Args:
        start: The layer's answers, shape (N, F), or one for all images (F,): to the whole input without
            keep, to an input of zeros (the bias) with it.
        partial: What each cell adds to the answer, shape (N, h, w, F), of the same type.
        batch_index: Which image, shape (B,), integers.
        boxes: Half-open boxes (r0, c0, r1, c1), one a result, shape (B, 4), integers.
        out: Written, shape (B, F), C-contiguous, of the same type.
        keep: Whether the box is what is kept.

    Raises:
        ValueError: An argument has a wrong type, shape, layout or value.
    """
    partial = check_floats("partial", partial, "N h w F")
    start = _start(start, partial)
    batch_index = check_indices("batch_index", batch_index, len(partial), (-1,))
    boxes = check_boxes(boxes, *partial.shape[1:3])
    if len(boxes) != len(batch_index):
        raise ValueError(
            f"boxes must have shape ({len(batch_index)}, 4) to match batch_index, got {boxes.shape}"
        )
    check_output("out", out, (len(batch_index), partial.shape[3]), partial.dtype, start, partial)
    reference.first_layer_boxes(start, partial, batch_index, boxes, out, keep=bool(keep))


@dispatched()
@ignore_float_errors
def first_layer_channels(
    start: Floats, partial: Floats, batch_index: ArrayLike, channel: ArrayLike, out: Floats
) -> None:
    """Write the layer's answer with a channel set to zero.

    out[b] = start[batch_index[b]] - partial[batch_index[b], channel[b]].

    Args:
        start: The layer's answers to the whole input, shape (N, F), or one for all images (F,).
        partial: What each channel adds to the answer, shape (N, K, F), of the same type.
        batch_index: Which image, shape (B,), integers.
        channel: Which channel to take away, shape (B,), integers.
        out: Written, shape (B, F), C-contiguous, of the same type.

    Raises:
        ValueError: An argument has a wrong type, shape, layout or value.
    """
    partial = check_floats("partial", partial, "N K F")
    start = _start(start, partial)
    batch_index = check_indices("batch_index", batch_index, len(partial), (-1,))
    channel = check_indices("channel", channel, partial.shape[1], batch_index.shape)
    check_output("out", out, (len(batch_index), partial.shape[2]), partial.dtype, start, partial)
    reference.first_layer_channels(start, partial, batch_index, channel, out)


def _start(start: Floats, partial: Floats) -> Floats:
    """The answers to begin with, (N, F), as a view where there is one for all."""
    single = isinstance(start, np.ndarray) and start.ndim == 1
    start = check_floats("start", start, "F" if single else "N F", partial.dtype)
    n, features = len(partial), partial.shape[-1]
    if start.shape not in ((n, features), (features,)):
        raise ValueError(f"start must have shape ({n}, {features}) or ({features},), got {start.shape}")
    return np.broadcast_to(start, (n, features))
