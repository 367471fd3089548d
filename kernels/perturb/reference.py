"""The definition of `perturb` in NumPy."""

from __future__ import annotations

import numpy as np

from camrt.kernels.checks import Floats, Ints
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["perturb"]


@ignore_float_errors
def perturb(
    sheets: Floats, ranks: Ints, ranking: Ints, count: Ints, first: Ints, rest: Ints, out: Floats
) -> None:
    """Compute what `camrt.kernels.perturb.perturb` documents, unchecked."""
    for b in range(len(ranking)):
        chosen = ranks[ranking[b]].reshape(sheets.shape[2:]) < count[b]
        out[b] = np.where(chosen, sheets[first[b]], sheets[rest[b]])
