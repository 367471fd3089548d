"""The output of a pointwise linear layer after one channel of its input is ablated."""

from __future__ import annotations

from numpy.typing import ArrayLike

from camrt.kernels import IMPLEMENTATION
from camrt.kernels.checks import Floats, check_floats, check_indices, check_output, thread_count
from camrt.kernels.dispatch import dispatched
from camrt.kernels.float_errors import ignore_float_errors
from camrt.kernels.rank_one import reference

if IMPLEMENTATION == "native":
    from camrt.kernels import _native

__all__ = ["rank_one"]


@dispatched()
@ignore_float_errors
def rank_one(
    base: Floats,
    weight: Floats,
    activations: Floats,
    batch_index: ArrayLike,
    channel: ArrayLike,
    out: Floats,
    *,
    threads: int | None = None,
) -> None:
    """Write out[b, f, l] = base[n,f,l] - weight[k,f] activations[n,k,l], n, k = batch_index[b], channel[b].

    Args:
        base: The layer's output for the whole input, shape (N, F, L).
        weight: The layer's weight, transposed, shape (K, F), of the same type.
        activations: The layer's input, shape (N, K, L), of the same type.
        batch_index: Which image, shape (B,), integers.
        channel: Which channel to take away, shape (B,), integers.
        out: Written, shape (B, F, L), C-contiguous, of the same type.
        threads: Number of threads; all of the machine's when None.

    Raises:
        ValueError: An argument has a wrong type, shape, layout or value.
    """
    base = check_floats("base", base, "N F L")
    weight = check_floats("weight", weight, "K F", base.dtype)
    activations = check_floats("activations", activations, "N K L", base.dtype)
    n, f, length = base.shape
    if weight.shape[1] != f:
        raise ValueError(f"weight must have shape (K, {f}) to match base, got {weight.shape}")
    if activations.shape != (n, weight.shape[0], length):
        raise ValueError(
            f"activations must have shape {(n, weight.shape[0], length)}, got {activations.shape}"
        )
    batch_index = check_indices("batch_index", batch_index, n, (-1,))
    channel = check_indices("channel", channel, weight.shape[0], batch_index.shape)
    check_output("out", out, (len(batch_index), f, length), base.dtype, base, weight, activations)
    workers = thread_count(threads)
    if IMPLEMENTATION == "native":
        _native.rank_one(base, weight, activations, batch_index, channel, out, workers)
    else:
        reference.rank_one(base, weight, activations, batch_index, channel, out)
