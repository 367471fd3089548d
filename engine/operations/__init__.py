"""What is computed by kernels, for arrays wherever they lie.

NumPy's arrays, and tensors on the CPU, are given to the native kernels; tensors on a GPU to Triton's.
"""

from __future__ import annotations

from typing import Any

from array_api_compat import is_torch_array

from camrt.engine.operations.base import FirstLayerBoxes, Operations
from camrt.engine.operations.native import Native

__all__ = ["FirstLayerBoxes", "Operations", "operations"]

NATIVE = Native()


def operations(array: Any) -> Operations:
    """The operations for arrays of this library, where this one lies."""
    return _of_tensors(array.device.type) if is_torch_array(array) else NATIVE


def _of_tensors(device: str) -> Operations:
    if device == "cpu":
        from camrt.engine.operations.on_cpu import ON_CPU

        return ON_CPU
    from camrt.engine.operations.on_gpu import ON_GPU

    return ON_GPU
