"""A linear layer over flattened activations, split into what each cell or each channel adds to it."""

from __future__ import annotations

from importlib import import_module
from typing import Literal

import numpy as np

from camrt.kernels import IMPLEMENTATION
from camrt.kernels.checks import Floats, check_floats, thread_count
from camrt.kernels.dispatch import Array, backend_of, dispatched
from camrt.kernels.float_errors import ignore_float_errors
from camrt.kernels.partial_products import reference

if IMPLEMENTATION == "native":
    from camrt.kernels import _native

__all__ = ["matmul_packed", "pack_weight", "partial_products"]


@dispatched()
@ignore_float_errors
def partial_products(
    weight: Floats, u: Floats, *, by: Literal["cell", "channel"], threads: int | None = None
) -> Floats:
    """Compute the partial products of a linear layer, by cell or by channel.

    - by "cell": out[n, l, f] = Σ_k weight[f, k, l] u[n, k, l]
    - by "channel": out[n, k, f] = Σ_l weight[f, k, l] u[n, k, l]

    The sum of either over its second axis is the layer's output without bias. The weight is read once,
    whatever N is; it is copied only where it is not C-contiguous.

    Args:
        weight: Shape (F, K, L); may be read-only.
        u: Activations, shape (N, K, L), of the same type.
        by: Which index the products are split by.
        threads: Number of threads; all of the machine's when None.

    Returns:
        Shape (N, L, F) by cell, (N, K, F) by channel, of the type of weight.

    Raises:
        ValueError: An argument has a wrong type, shape or value.
    """
    weight = check_floats("weight", weight, "F K L")
    if weight.size == 0:
        raise ValueError(f"weight must not be empty, got shape {weight.shape}")
    u = check_floats("u", u, "N K L", weight.dtype)
    if u.shape[1:] != weight.shape[1:]:
        raise ValueError(f"u must have shape (N, {weight.shape[1]}, {weight.shape[2]}), got {u.shape}")
    if by not in ("cell", "channel"):
        raise ValueError(f"by must be 'cell' or 'channel', got {by!r}")
    workers = thread_count(threads)
    if IMPLEMENTATION == "native":
        out = np.empty((u.shape[0], u.shape[1 if by == "channel" else 2], weight.shape[0]), weight.dtype)
        _native.partial_products(weight, u, by == "channel", out, workers)
        return out
    return reference.partial_products(weight, u, by=by)


@ignore_float_errors
def pack_weight(weight: Array) -> Array:
    """A weight (F, K, L) as `partial_products` reads it fastest where it lies: the same numbers.

    On a GPU it is a copy, to be made once; elsewhere the weight itself.
    """
    if backend_of(weight) != "gpu":
        return weight
    packed: Array = import_module(f"{__name__}.gpu").pack_weight(weight)
    return packed


@ignore_float_errors
def matmul_packed(rows: Array, weight: Array) -> Array:
    """Σ_f rows[n, f] · weight[f, k, l], shape (N, K, L), of a packed weight, which is read as it lies."""
    features, channels, cells = weight.shape
    if backend_of(weight) != "gpu":
        return (rows @ weight.reshape(features, -1)).reshape(len(rows), channels, cells)
    found = rows @ weight.permute(0, 2, 1).reshape(features, cells * channels)
    return found.reshape(len(rows), cells, channels).permute(0, 2, 1)
