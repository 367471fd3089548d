"""The definition of `hidden_scores` in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from camrt.kernels.checks import Floats, Ints
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["FUNCTIONS", "hidden_scores"]

FUNCTIONS: dict[str, Callable[[Floats], Floats]] = {
    "relu": lambda z: np.maximum(z, 0),
    "relu6": lambda z: np.clip(z, 0, 6),
    "hard_swish": lambda z: z * np.clip(z / 6 + 0.5, 0, 1),
    "silu": lambda z: z / (1 + np.exp(-z)),
}
"""The activation functions of a hidden layer, by their name."""


@ignore_float_errors
def hidden_scores(
    base: Floats,
    weight: Floats,
    factor: Floats,
    batch_index: Ints,
    row: Ints,
    rows: Floats,
    function: str,
) -> Floats:
    """Compute what `camrt.kernels.hidden_scores.hidden_scores` documents, unchecked."""
    hidden = FUNCTIONS[function](base[batch_index] - factor[:, None] * weight[row])
    found: Floats = (rows[batch_index] @ hidden[:, :, None])[:, :, 0]
    return found
