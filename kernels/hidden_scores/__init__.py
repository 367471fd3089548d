"""Scores behind a hidden layer whose input is altered by a multiple of a row."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from camrt.kernels import IMPLEMENTATION
from camrt.kernels.checks import Floats, check_floats, check_indices, thread_count
from camrt.kernels.float_errors import ignore_float_errors
from camrt.kernels.hidden_scores import reference
from camrt.kernels.hidden_scores.reference import FUNCTIONS

if IMPLEMENTATION == "native":
    from camrt.kernels import _native

__all__ = ["FUNCTIONS", "hidden_scores"]


@ignore_float_errors
def hidden_scores(
    base: Floats,
    weight: Floats,
    factor: Floats,
    batch_index: ArrayLike,
    row: ArrayLike,
    rows: Floats,
    function: str,
    *,
    threads: int | None = None,
) -> Floats:
    """Compute out[b, t] = Σ_f rows[n, t, f] · function(base[n, f] − factor[b] · weight[row[b], f]).

    n is batch_index[b]. No altered input is written down: a result reads a row of the weight, and what all
    results of an image read stays in the cache.

    Args:
        base: What the hidden layer's function reads of unaltered images, shape (N, F).
        weight: Rows that alterations take away, shape (K, F), of the same type.
        factor: How much of its row a result takes away, shape (B,), of the same type.
        batch_index: Which image, shape (B,), integers.
        row: Which row, shape (B,), integers.
        rows: The last layer's rows of the images' targets, shape (N, T, F), of the same type.
        function: One of `FUNCTIONS`.
        threads: Number of threads; all of the machine's when None.

    Returns:
        Shape (B, T), of the type of base.

    Raises:
        ValueError: An argument has a wrong type, shape or value.
    """
    base = check_floats("base", base, "N F")
    weight = check_floats("weight", weight, "K F", base.dtype)
    factor = check_floats("factor", factor, "B", base.dtype)
    rows = check_floats("rows", rows, "N T F", base.dtype)
    if function not in FUNCTIONS:
        raise ValueError(f"function must be one of {', '.join(FUNCTIONS)}, got {function!r}")
    n, f = base.shape
    if weight.shape[1] != f:
        raise ValueError(f"weight must have shape (K, {f}) to match base, got {weight.shape}")
    if rows.shape[::2] != (n, f):
        raise ValueError(f"rows must have shape ({n}, T, {f}), got {rows.shape}")
    batch_index = check_indices("batch_index", batch_index, n, factor.shape)
    row = check_indices("row", row, len(weight), factor.shape)
    workers = thread_count(threads)
    if IMPLEMENTATION == "native":
        out = np.empty((len(factor), rows.shape[1]), base.dtype)
        place = list(FUNCTIONS).index(function)
        _native.hidden_scores(base, weight, factor, batch_index, row, rows, place, out, workers)
        return out
    return reference.hidden_scores(base, weight, factor, batch_index, row, rows, function)
