"""The checks that every GPU kernel makes of its tensors before it is launched.

What is checked is what the host knows: types, shapes, layouts and devices. The values of indices lie on the
device, and to look at them would be to wait for it; kernels must be given indices in range.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeAlias

import torch

__all__ = [
    "FLOATS",
    "HALVES",
    "MemoryFormat",
    "check_floats",
    "check_indices",
    "check_output",
    "memory_format_of",
    "on_device",
]

MemoryFormat: TypeAlias = Literal["NCHW", "NHWC"]

HALVES = (torch.float16, torch.bfloat16)
FLOATS = (torch.float32, *HALVES)
"""What GPU kernels read and write; they compute in float32."""


def check_floats(
    name: str, tensor: torch.Tensor, axes: str, device: torch.device | None = None
) -> torch.Tensor:
    """Check a tensor of numbers. Any strides will do.

    Args:
        name: What to call the tensor in an error.
        tensor: The tensor.
        axes: The names of its axes separated by spaces, such as "N K h w".
        device: Where it must lie; anywhere when not given.

    Raises:
        ValueError: Its type, number of axes or device is wrong, or it has no elements to point at.
    """
    if not isinstance(tensor, torch.Tensor) or tensor.dtype not in FLOATS:
        kind = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise ValueError(f"{name} must be a tensor of float32, float16 or bfloat16, got {kind}")
    if tensor.ndim != len(axes.split()):
        raise ValueError(
            f"{name} must have the axes ({', '.join(axes.split())}), got shape {tuple(tensor.shape)}"
        )
    _same_device(name, tensor, device)
    return tensor


def check_indices(
    name: str, tensor: torch.Tensor, shape: tuple[int, ...], device: torch.device
) -> torch.Tensor:
    """Check a tensor of indices; its values must be in range, which is not checked.

    Args:
        name: What to call the tensor in an error.
        tensor: int32 or int64.
        shape: The shape it must have; -1 stands for any length.
        device: Where it must lie.

    Returns:
        The tensor, or a contiguous copy.

    Raises:
        ValueError: Its type, shape or device is wrong.
    """
    if not isinstance(tensor, torch.Tensor) or tensor.dtype not in (torch.int32, torch.int64):
        kind = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise ValueError(f"{name} must be a tensor of int32 or int64, got {kind}")
    if tensor.ndim != len(shape) or any(
        want not in (-1, got) for want, got in zip(shape, tensor.shape, strict=True)
    ):
        wanted = ", ".join("any" if n < 0 else str(n) for n in shape)
        raise ValueError(f"{name} must have shape ({wanted}), got {tuple(tensor.shape)}")
    _same_device(name, tensor, device)
    return tensor.contiguous()


def check_output(name: str, out: torch.Tensor, shape: tuple[int, ...], *inputs: torch.Tensor) -> None:
    """Check a tensor that a kernel is to write into: of any float type, and dense.

    Args:
        name: What to call the tensor in an error.
        out: The tensor.
        shape: The shape it must have.
        inputs: Tensors on the same device that it must not share memory with.

    Raises:
        ValueError: Its type, shape, layout or device is wrong, or it shares memory with an input.
    """
    check_floats(name, out, " ".join("?" * len(shape)), inputs[0].device if inputs else None)
    if tuple(out.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(out.shape)}")
    memory_format_of(name, out)
    memory = out.untyped_storage().data_ptr()
    if out.numel() and any(memory == one.untyped_storage().data_ptr() for one in inputs):
        raise ValueError(f"{name} must not share memory with the tensors that are read")


def memory_format_of(name: str, tensor: torch.Tensor) -> MemoryFormat:
    """Say how a dense tensor lies in memory; one of other than four axes can only be contiguous.

    Args:
        name: What to call the tensor in an error.
        tensor: The tensor.

    Raises:
        ValueError: It is neither contiguous nor channels-last.
    """
    if tensor.is_contiguous():
        return "NCHW"
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return "NHWC"
    raise ValueError(f"{name} must be contiguous or channels-last, got strides {tensor.stride()}")


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Within it kernels are launched on this device; on the CPU they are interpreted, and it does nothing."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _same_device(name: str, tensor: torch.Tensor, device: torch.device | None) -> None:
    if device is not None and tensor.device != device:
        raise ValueError(f"{name} must be on {device} like the other tensors, got {tensor.device}")
