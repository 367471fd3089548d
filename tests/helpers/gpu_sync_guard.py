"""Fails a test if code would synchronise with the GPU; works with CPU tensors too."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["forbid_gpu_sync"]

aten = torch.ops.aten
VALUE_DEPENDENT = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
INDEXING = (aten.index, aten.index_put, aten.index_put_)
CHECKED = (aten._linalg_eigh, aten._linalg_svd, aten.linalg_eig)
COPYING = (aten._to_copy, aten.copy_)
HOST_READS = (torch.Tensor.__array__, torch.Tensor.tolist, torch.Tensor.cpu)
TENSOR_FACTORIES = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)
INDEXED = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)


@contextmanager
def forbid_gpu_sync(allowed: Collection[str] = ()) -> Iterator[None]:
    """Within it, whatever on a GPU would wait for the device raises.

    That is: numbers brought to the host (`.item()`, `bool()`, `np.asarray`), results whose shape depends on
    numbers (`nonzero`, a mask as an index), copies between devices that do not say `non_blocking=True`,
    tensors made of the host's numbers, which are such copies, and factorisations that say whether they
    succeeded.

    The constants of `camrt.engine.arrays.constant_like` are copied once: what is tested must have been run
    before.
    `.numpy()` is let pass, for it raises by itself for a tensor that is not in the host's memory.

    Args:
        allowed: Names of torch's operators that may wait, such as "aten._linalg_eigh.default".

    Raises:
        AssertionError: Something would wait; the message names the operation.
    """
    with _CallGuard(), _OperatorGuard(allowed):
        yield


class _CallGuard(TorchFunctionMode):
    """Refuses what can be told only from what Python calls."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in HOST_READS:
            refuse(f"Tensor.{func.__name__}", "it brings numbers to the host")
        given = (*args, *(kwargs or {}).values())
        if func in TENSOR_FACTORIES and not isinstance(given[func is torch.Tensor.new_tensor], torch.Tensor):
            refuse(
                f"torch's {func.__name__}",
                "it copies numbers; camrt.engine.arrays.constant_like does so once",
            )
        if func in INDEXED:
            parts = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, (list, np.ndarray)) for part in parts):
                refuse("an index of the host's numbers", "they are copied")
        return func(*args, **(kwargs or {}))


class _OperatorGuard(TorchDispatchMode):
    """Refuses what reaches torch's kernels.

    Args:
        but: What is not refused.
    """

    def __init__(self, but: Collection[str]) -> None:
        super().__init__()
        self._but = but

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if str(func) in self._but:
            return func(*args, **kwargs)
        if packet in INDEXING:
            masks = (torch.bool, torch.uint8)
            if any(index is not None and index.dtype in masks for index in args[1]):
                refuse(str(func), "a mask is among the indices; use where")
        elif VALUE_DEPENDENT & set(func.tags) and kwargs.get("output_size") is None:
            refuse(str(func), "it looks at numbers")
        elif packet in CHECKED:
            refuse(str(func), "it tells the host whether it succeeded")
        result = func(*args, **kwargs)
        if packet in COPYING:
            source = args[1] if packet is aten.copy_ else args[0]
            queued = kwargs.get("non_blocking", False) or (len(args) > 2 and args[2])
            if source.device != result.device and not queued:
                refuse(str(func), f"it copies from {source.device} to {result.device}")
        return result


def refuse(name: str, why: str) -> NoReturn:
    raise AssertionError(f"{name} waits for a GPU: {why}")
