"""camrt.kernels: the arithmetic of the explanations, in C++, in Triton and in NumPy.

Every operation is a folder: `reference.py` defines it in NumPy, `cpu.cpp` computes it fast, and
`__init__.py` checks the arguments and calls one of the two; a few are made of others and have no `cpu.cpp`.
`gpu.py` computes it on a card. Which of them a call means is told by its first argument: see
`camrt.kernels.dispatch`. Import an operation from its folder:

    from camrt.kernels.masked_batch import masked_batch

`IMPLEMENTATION` says which of the first two is in use. The environment variable `CAMRT_KERNELS`, set to
`native` or `reference` before the first import, forces the choice.
"""

from __future__ import annotations

import os
import warnings
from importlib import import_module
from typing import Literal, TypeAlias

from camrt.errors import ReferenceKernelWarning

__all__ = ["IMPLEMENTATION"]

_Implementation: TypeAlias = Literal["native", "reference"]
_REBUILD = (
    "to build the native kernels, install a C++20 compiler and CMake, then reinstall camrt "
    "(pip install --force-reinstall --no-deps .)"
)


def _choose(wanted: str) -> _Implementation:
    """Decide which implementation to use.

    Args:
        wanted: The value of `CAMRT_KERNELS`; empty to prefer the native kernels.

    Returns:
        "native" or "reference".

    Raises:
        ImportError: `wanted` is not understood, or the native kernels were asked for and are missing.
    """
    if wanted not in ("", "native", "reference"):
        raise ImportError(f"CAMRT_KERNELS is {wanted!r}; it must be 'native' or 'reference'")
    if wanted == "reference":
        return "reference"
    try:
        import_module("camrt.kernels._native")
    except ImportError as error:
        if wanted == "native":
            raise ImportError(
                f"CAMRT_KERNELS asks for the native kernels, but {error}; {_REBUILD}"
            ) from error
        warnings.warn(
            f"the native kernels are missing ({error}); the slower NumPy reference is in use; {_REBUILD}",
            ReferenceKernelWarning,
            stacklevel=3,
        )
        return "reference"
    return "native"


IMPLEMENTATION: _Implementation = _choose(os.environ.get("CAMRT_KERNELS", ""))
