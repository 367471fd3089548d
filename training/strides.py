"""Finer maps: strides late in a trunk are taken out, and its weights stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from camrt.errors import InputError
from camrt.training.trunks import blank_images, eval_mode, map_shape

__all__ = ["set_map_stride", "stride_of"]

POOLS = (nn.MaxPool2d, nn.AvgPool2d)


def stride_of(trunk: nn.Module, size: tuple[int, int]) -> int:
    """Pixels of the image that one cell of the trunk's map stands for, along each side.

    Raises:
        InputError: The two sides differ by more than rounding.
    """
    _, height, width = map_shape(trunk, size)
    strides = {round(size[0] / height), round(size[1] / width)}
    if len(strides) > 1:
        raise InputError(f"images of {size} give maps of {(height, width)}: no single stride")
    return strides.pop()


def set_map_stride(trunk: nn.Module, stride: int, size: tuple[int, int]) -> None:
    """Takes out strides from the last backwards, until a cell of the map stands for `stride` pixels a side.

    A strided convolution moves by one instead, its weights unchanged and its taps as close together as before
    ("Keep CALM and Improve Visual Feature Attribution" does so to ResNet-50's last two stages; specification
    A5); a pooling layer that keeps the size when it moves by one does the same, and any other is left out.

    Args:
        trunk: Images to maps; changed in place.
        stride: The stride wanted.
        size: (H, W) of images it takes.

    Raises:
        InputError: The stride cannot be reached by such changes.
    """
    if isinstance(stride, bool) or not isinstance(stride, int) or stride < 1:
        raise InputError(f"map_stride={stride!r} must be a whole number >= 1")
    found = stride_of(trunk, size)
    if found < stride:
        raise InputError(f"map_stride={stride} is coarser than the trunk's own maps, of stride {found}")
    for path in find_strided_layers(trunk, stride, size):
        module = trunk.get_submodule(path)
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
        elif isinstance(module, nn.MaxPool2d) and keeps_size(module):
            module.stride = 1
        else:
            trunk.set_submodule(path, nn.Identity())
    _, height, width = map_shape(trunk, size)
    if (height, width) != (-(-size[0] // stride), -(-size[1] // stride)):
        raise InputError(
            f"map_stride={stride} cannot be reached: images of {size[0]}×{size[1]} then give maps of "
            f"{height}×{width}; this trunk's own stride is {found}"
        )


def find_strided_layers(trunk: nn.Module, stride: int, size: tuple[int, int]) -> list[str]:
    """Paths of the layers whose answer is coarser than the stride wanted, and that make it so."""
    found: list[str] = []
    handles = []

    def watch(path: str) -> Callable[[Any, Any, torch.Tensor], None]:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            before, now = inputs[0].shape[2:], output.shape[2:]
            shrinks = any(step > 1 for step in strides_of(module))
            if shrinks and now.numel() < before.numel() and round(size[0] / now[0]) > stride:
                found.append(path)

        return hook

    for path, module in trunk.named_modules():
        if isinstance(module, (nn.Conv2d, *POOLS)):
            handles.append(module.register_forward_hook(watch(path)))
    try:
        with eval_mode(trunk), torch.no_grad():
            trunk(blank_images(trunk, size))
    finally:
        for handle in handles:
            handle.remove()
    return found


def strides_of(module: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> tuple[int, ...]:
    """A layer's strides."""
    step = module.stride
    return step if isinstance(step, tuple) else (step,)


def keeps_size(module: nn.MaxPool2d) -> bool:
    """Whether the layer gives as many cells as it takes once it moves by one."""
    kernel, padding = module.kernel_size, module.padding
    return isinstance(kernel, int) and isinstance(padding, int) and kernel == 2 * padding + 1
