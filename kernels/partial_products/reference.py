"""The definition of `partial_products` in NumPy."""

from __future__ import annotations

import numpy as np

from camrt.kernels.checks import Floats
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["partial_products"]


@ignore_float_errors
def partial_products(weight: Floats, u: Floats, *, by: str) -> Floats:
    """Compute what `camrt.kernels.partial_products.partial_products` documents, unchecked."""
    result: Floats = np.einsum("fkl,nkl->nkf" if by == "channel" else "fkl,nkl->nlf", weight, u)
    return np.ascontiguousarray(result)
