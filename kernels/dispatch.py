"""Which implementation of a kernel computes: by the library and the device of its first argument.

Every public kernel takes arrays of NumPy, tensors of torch on the CPU, which the same native code reads in
their own memory, and tensors on a GPU, for which the function of the same name in the folder's `gpu.py` is
called. Torch is never imported here: who passes a tensor has imported it. Triton is imported with the first
tensor on a GPU.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from itertools import starmap, zip_longest
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar, cast

import numpy as np
from array_api_compat import is_torch_array
from numpy.typing import NDArray

from camrt.kernels.caches import ByteCache

__all__ = ["Array", "Backend", "backend_of", "constant_like", "dispatched", "host_readable"]

Array: TypeAlias = Any  # of NumPy, or a tensor of torch
Backend: TypeAlias = Literal["numpy", "cpu", "gpu"]
P = ParamSpec("P")
R = TypeVar("R")

DEVICE_BACKENDS: dict[str, Backend] = {"cpu": "cpu"}
"""What computes on tensors of a type of device, where it is not "gpu"."""
READABLE: frozenset[Backend] = frozenset({"numpy", "cpu"})
_CONSTANTS: ByteCache[Any] = ByteCache()


def backend_of(array: Array) -> Backend:
    """What computes on an array: NumPy's "numpy", or of a tensor "cpu" or "gpu", where it lies."""
    if not is_torch_array(array):
        return "numpy"
    return DEVICE_BACKENDS.get(array.device.type, "gpu")


def host_readable(array: Array) -> bool:
    """Whether the values of an array can be looked at without waiting for a device."""
    return backend_of(array) in READABLE


def constant_like(values: NDArray[Any], array: Array) -> Array:
    """Returns a NumPy constant as an array of the same library and device; read-only, cached."""
    if not is_torch_array(array):
        return values
    key = (values.tobytes(), values.shape, values.dtype.str, str(array.device))
    return _CONSTANTS.get(key, lambda: sys.modules["torch"].from_numpy(values.copy()).to(array.device))


def dispatched(*, host: tuple[str, ...] = ()) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes a kernel for arrays of NumPy one for tensors too; see above.

    Tensors on the CPU are passed as arrays on the same memory (half types as copies in float32), what is
    called `out` is written whatever its type and layout, and arrays that are returned become tensors. On a
    GPU, `threads` is left out. Results are not part of torch's graph for gradients.

    Args:
        host: Names of arguments that are arrays of NumPy whatever the others are; a GPU gets a cached copy.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        names = tuple(inspect.signature(function).parameters)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            array: Any = args[0] if args else kwargs.get(names[0])
            if isinstance(array, np.ndarray) or (backend := backend_of(array)) == "numpy":
                return function(*args, **kwargs)
            if backend == "cpu":
                return _call_on_cpu(function, names, args, kwargs)
            return _call_on_gpu(function, names, args, kwargs, array, host)

        return call

    return decorate


def _call_on_cpu(
    function: Callable[..., R], names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> R:
    buffers: list[tuple[Any, NDArray[Any]]] = []
    first = args[0] if args else kwargs[names[0]]
    kind = sys.modules["torch"].float32 if _is_half(first) else first.dtype  # what is computed in

    def to_array(name: str | None, value: Any) -> Any:
        if not is_torch_array(value):
            return value
        if name != "out" or (value.dtype == kind and value.is_contiguous()):
            return to_numpy_view(value)
        rows = np.empty(tuple(value.shape), to_numpy_view(first).dtype)
        buffers.append((value, rows))
        return rows

    found: Any = function(
        *starmap(to_array, zip_longest(names[: len(args)], args)),
        **{name: to_array(name, value) for name, value in kwargs.items()},
    )
    for out, rows in buffers:
        out.copy_(_to_tensor(rows))
    made: Any = tuple(map(_to_tensor, found)) if isinstance(found, tuple) else _to_tensor(found)
    return cast(R, made)


def _call_on_gpu(
    function: Callable[..., R],
    names: tuple[str, ...],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    array: Array,
    host: tuple[str, ...],
) -> R:
    def to_device(name: str | None, value: Any) -> Any:
        return constant_like(value, array) if name in host and isinstance(value, np.ndarray) else value

    run: Callable[..., R] = getattr(import_module(f"{function.__module__}.gpu"), function.__name__)
    return run(
        *starmap(to_device, zip_longest(names[: len(args)], args)),
        **{name: to_device(name, value) for name, value in kwargs.items() if name != "threads"},
    )


def to_numpy_view(tensor: Any) -> NDArray[Any]:
    """A tensor on the CPU as an array on the same memory; a copy in float32 where NumPy has no such type."""
    plain = tensor.detach()
    array: NDArray[Any] = (plain.float() if _is_half(plain) else plain).numpy()
    return array


def _is_half(tensor: Any) -> bool:
    kind = tensor.dtype
    return bool(kind.itemsize == 2 and kind.is_floating_point)


def _to_tensor(value: Any) -> Any:
    return sys.modules["torch"].from_numpy(value) if isinstance(value, np.ndarray) else value
