"""How closely results must agree, by type: the one table that every test uses."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

__all__ = ["TOLERANCES", "assert_close"]

# name of a type, or of a runtime and what it computes in -> (rtol, atol). The relative part is of the largest
# magnitude expected.
TOLERANCES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        # epsilon is 2^-7 = 7.8e-3; two roundings of a result and one of its input
        "bfloat16": (1.6e-2, 1e-30),
        # epsilon is 2^-10 = 9.8e-4; two roundings of a result and one of its input
        "float16": (2e-3, 1e-6),
        # epsilon is 2^-23 = 1.2e-7; sums of some hundred terms and an exponential lose a few bits:
        # 16 epsilons. The absolute part lets results near the smallest normal number vanish.
        "float32": (2e-6, 1e-30),
        # epsilon is 2^-52 = 2.2e-16; the reference itself loses bits in another order of summation,
        # and exponentials of arguments up to 1e3 lose 1e3 epsilons
        "float64": (1e-12, 1e-290),
        # OpenVINO in float32 beside ONNX Runtime: both sum fifty layers, each in its own order; 80 epsilons
        "openvino-fp32": (1e-5, 1e-30),
        # the same of gradients: 1 − tanh² loses the digits that tanh has in common with 1
        "openvino-gradient": (2e-4, 1e-30),
        # OpenVINO in bfloat16: each layer rounds to 2^-8, and fifty of them came to 6 % on MobileNetV3
        "openvino-bf16": (0.1, 1e-30),
    }
)


def assert_close(
    actual: ArrayLike, expected: ArrayLike, dtype: DTypeLike | None = None, factor: float = 1.0
) -> None:
    """Assert that two arrays agree, NaN and infinities in the same places included.

    The error is compared in float64 with the largest finite magnitude of `expected`.

    Args:
        actual: What was computed.
        expected: What it should be, of the same shape.
        dtype: The type whose tolerance applies, or another name of `TOLERANCES`; that of `actual` when None.
        factor: Multiplies the tolerance; say why where it is not 1.
    """
    name = (
        dtype
        if isinstance(dtype, str) and dtype in TOLERANCES
        else np.dtype(np.asarray(actual).dtype if dtype is None else dtype).name
    )
    if name not in TOLERANCES:
        raise AssertionError(f"no tolerance is known for {name}")
    a = np.asarray(actual, dtype=np.float64)
    e = np.asarray(expected, dtype=np.float64)
    assert a.shape == e.shape, f"shape {a.shape}, expected {e.shape}"
    finite = np.isfinite(e)
    odd = ~finite & ~((a == e) | (np.isnan(a) & np.isnan(e))) | finite & ~np.isfinite(a)
    if odd.any():
        at = tuple(int(i) for i in np.argwhere(odd)[0])
        raise AssertionError(f"at {at}: {a[at]}, expected {e[at]} ({int(odd.sum())} of {a.size} differ)")
    if not finite.any():
        return
    rtol, atol = TOLERANCES[name]
    scale = float(np.abs(e[finite]).max())
    error = np.where(finite, np.abs(np.where(finite, a, 0) - np.where(finite, e, 0)), 0)
    allowed = factor * (rtol * scale + atol)
    worst = tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))
    assert error[worst] <= allowed, (
        f"at {worst}: {a[worst]!r}, expected {e[worst]!r}; error {error[worst]:.3g} exceeds {allowed:.3g} "
        f"({name}, rtol {rtol * factor:.3g} of the largest magnitude {scale:.3g})"
    )
