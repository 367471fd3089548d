"""What the biases of a module's layers contribute to its answer, by autograd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from camrt.export.adjoint import BIAS_EPSILONS, BiasScaling

__all__ = ["BiasedOutputs", "make_bias_map"]

Tensor = torch.Tensor
Biased = tuple[Tensor, Tensor]
"""What a layer gave (N, C, h, w), and the bias of each of its channels (C,)."""
BIAS_OPERANDS = {
    "conv2d": ("bias", 2),
    "conv_transpose2d": ("bias", 2),
    "convolution": ("bias", 2),
    "group_norm": ("bias", 3),
    "instance_norm": ("bias", 4),
}
"""Where functions of torch, by name, take the bias of each channel."""
NORM_OPERANDS = {
    "batch_norm": {"weight": 1, "bias": 2, "running_mean": 3, "running_var": 4, "eps": 7},
    "_native_batch_norm_legit_no_training": {
        "weight": 1, "bias": 2, "running_mean": 3, "running_var": 4, "eps": 6,
    },
}  # fmt: skip
"""Where batch normalisations take what they add."""
FUNCTIONAL_NORM = {"running_mean": 1, "running_var": 2, "weight": 3, "bias": 4, "eps": 7}


class BiasedOutputs(TorchFunctionMode):
    """Notes what convolutions and normalisations give, and their biases; what comes after is given copies.

    Functions are followed, not submodules, so that a module and what torch.export made of it are the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Biased] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls a function, and notes its output where it has a bias."""
        named = kwargs or {}
        output = func(*args, **named)
        bias = find_bias(func, args, named)
        first = output[0] if isinstance(output, tuple) else output
        if bias is None or first.ndim != 4 or first[0, 0].numel() == 1:
            return output
        self.found.append((first, bias))
        copy = first.clone()  # which may be written into
        return (copy, *output[1:]) if isinstance(output, tuple) else copy


def find_bias(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """What a function adds to something linear in its input, (C,); None where it is nothing."""
    name = getattr(func, "__name__", "").partition(".")[0]

    def operand(named: str, place: int) -> Any:
        return kwargs.get(named, args[place] if len(args) > place else None)

    if name in BIAS_OPERANDS:
        bias = operand(*BIAS_OPERANDS[name])
        return bias if isinstance(bias, Tensor) else None
    if name not in NORM_OPERANDS:
        return None
    places = FUNCTIONAL_NORM if func is nn.functional.batch_norm else NORM_OPERANDS[name]
    found = {named: operand(named, place) for named, place in places.items()}
    if found["running_mean"] is None or found["running_var"] is None:
        return None
    slope = torch.rsqrt(found["running_var"] + (1e-5 if found["eps"] is None else found["eps"]))
    if found["weight"] is not None:
        slope = slope * found["weight"]
    level: Tensor = -found["running_mean"] * slope
    return level if found["bias"] is None else level + found["bias"]


def make_bias_map(
    biased: list[Biased], gradients: list[Tensor], images: Tensor, scaling: BiasScaling
) -> Tensor:
    """See `camrt.export.adjoint.bias_gradients.make_bias_map`.

    Args:
        biased: What layers gave, and their biases.
        gradients: The gradient at each of these outputs.
        images: (N, C, H, W).
        scaling: How magnitudes are brought to [0, 1].
    """
    total = images.new_zeros((len(images), *images.shape[2:]))
    over = (1, 2, 3) if scaling == "authors" else (2, 3)
    for (_, bias), gradient in zip(biased, gradients, strict=True):
        magnitude = (gradient * bias[:, None, None]).abs()
        low = magnitude.amin(over, keepdim=True)
        spread = magnitude.amax(over, keepdim=True) - low
        epsilon = BIAS_EPSILONS[scaling]
        scaled = (magnitude - low) / (spread + epsilon)
        if not epsilon:
            scaled = torch.where(spread == 0, torch.zeros_like(scaled), scaled)
        total = total + nn.functional.interpolate(
            scaled.sum(1, keepdim=True),
            size=images.shape[2:],
            mode="bilinear",
            align_corners=scaling == "authors",
        ).squeeze(1)
    return total
