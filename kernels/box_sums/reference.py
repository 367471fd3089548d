"""The definition of `box_sums` in NumPy."""

from __future__ import annotations

import numpy as np

from camrt.kernels.checks import Floats, Ints
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["box_sums"]


@ignore_float_errors
def box_sums(cells: Floats, boxes: Ints, out: Floats) -> None:
    """Compute what `camrt.kernels.box_sums.box_sums` documents, unchecked."""
    for p, (r0, c0, r1, c1) in enumerate(boxes):
        out[:, p] = cells[:, r0:r1, c0:c1].sum(axis=(1, 2), dtype=np.float64)
