"""Batches of activations with a channel or a box of cells ablated, for heads that must be run."""

from __future__ import annotations

from numpy.typing import ArrayLike

from camrt.kernels import IMPLEMENTATION
from camrt.kernels.ablate import reference
from camrt.kernels.checks import Floats, check_boxes, check_floats, check_indices, check_output, thread_count
from camrt.kernels.dispatch import dispatched
from camrt.kernels.float_errors import ignore_float_errors

if IMPLEMENTATION == "native":
    from camrt.kernels import _native

__all__ = ["ablate_boxes", "ablate_channels"]


@dispatched()
@ignore_float_errors
def ablate_channels(
    activations: Floats,
    batch_index: ArrayLike,
    channel: ArrayLike,
    out: Floats,
    *,
    threads: int | None = None,
) -> None:
    """Write out[b] = activations[batch_index[b]] with channel[b] set to zero.

    Args:
        activations: A, shape (N, K, h, w).
        batch_index: Which image, shape (B,), integers.
        channel: Which channel to ablate, shape (B,), integers.
        out: Written, shape (B, K, h, w), C-contiguous, of the same type.
        threads: Number of threads; all of the machine's when None.

    Raises:
        ValueError: An argument has a wrong type, shape, layout or value.
    """
    activations = check_floats("activations", activations, "N K h w")
    batch_index = check_indices("batch_index", batch_index, activations.shape[0], (-1,))
    channel = check_indices("channel", channel, activations.shape[1], batch_index.shape)
    check_output("out", out, (len(batch_index), *activations.shape[1:]), activations.dtype, activations)
    workers = thread_count(threads)
    if IMPLEMENTATION == "native":
        _native.ablate_channels(activations, batch_index, channel, out, workers)
    else:
        reference.ablate_channels(activations, batch_index, channel, out)


@dispatched()
@ignore_float_errors
def ablate_boxes(
    activations: Floats,
    batch_index: ArrayLike,
    boxes: ArrayLike,
    out: Floats,
    *,
    keep: bool,
    threads: int | None = None,
) -> None:
    """Write out[b] = activations[batch_index[b]] with the cells of boxes[b], or all others, set to zero.

    Args:
        activations: A, shape (N, K, h, w).
        batch_index: Which image, shape (B,), integers.
        boxes: Half-open boxes (r0, c0, r1, c1), one a result, shape (B, 4), integers.
        out: Written, shape (B, K, h, w), C-contiguous, of the same type.
        keep: False to zero the cells of the box, True to zero the cells outside it; in all channels.
        threads: Number of threads; all of the machine's when None.

    Raises:
        ValueError: An argument has a wrong type, shape, layout or value.
    """
    activations = check_floats("activations", activations, "N K h w")
    batch_index = check_indices("batch_index", batch_index, activations.shape[0], (-1,))
    boxes = check_boxes(boxes, *activations.shape[2:])
    if len(boxes) != len(batch_index):
        raise ValueError(
            f"boxes must have shape ({len(batch_index)}, 4) to match batch_index, got {boxes.shape}"
        )
    check_output("out", out, (len(batch_index), *activations.shape[1:]), activations.dtype, activations)
    workers = thread_count(threads)
    if IMPLEMENTATION == "native":
        _native.ablate_boxes(activations, batch_index, boxes, out, bool(keep), workers)
    else:
        reference.ablate_boxes(activations, batch_index, boxes, out, keep=keep)
