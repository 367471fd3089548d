"""The three trunks of "Keep CALM and Improve Visual Feature Attribution" (specification A5).

They are for images of 224×224. All are torchvision's networks with torchvision's names and weights, and
finer maps than theirs: 14×14 (stride 16) or 28×28 (stride 8). torchvision is imported when one is made.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final, Literal

import torch
from torch import nn
from torch.nn import functional

from camrt.errors import InputError
from camrt.training.strides import set_map_stride
from camrt.training.trunks import extract_trunk

__all__ = ["SIZE", "inception_v3", "resnet50", "vgg16"]

SIZE: Final = (224, 224)
"""(H, W) that the strides of these trunks are chosen for."""

WIDTH: Final = 1024
"""Channels of the convolutions that are put behind VGG and Inception."""


def resnet50(network: nn.Module, stride: int = 8) -> nn.Module:
    """ResNet-50 to (2048, 224/stride, 224/stride): the last stages move by one cell, their weights unchanged.

    Args:
        network: `torchvision.models.resnet50`; it is taken apart.
        stride: 16 or 8.
    """
    _check_stride(stride)
    trunk = extract_trunk(network, SIZE)
    set_map_stride(trunk, stride, SIZE)
    return trunk


def vgg16(network: nn.Module, stride: int = 8) -> nn.Module:
    """VGG-16 without its last one or two max-pools, and a new convolution of 1024 channels, 3×3, with a ReLU.

    Args:
        network: `torchvision.models.vgg16` or `vgg16_bn`, which gives the new convolution a normalisation
            too; it is taken apart, and its layers keep their numbers.
        stride: 16 or 8.
    """
    _check_stride(stride)
    features: Any = network.features
    set_map_stride(features, stride, SIZE)
    normalised = any(isinstance(layer, nn.BatchNorm2d) for layer in features)
    return nn.Sequential(OrderedDict(features=features, **_build_convolution(6, 512, normalised, "kaiming")))


class Inception(nn.Module):
    """Inception-v3 up to Mixed_6e, its pooling padded, and two new convolutions of 1024 channels.

    224×224 images pass maps of 112, 110, 110, 56, 56, 54, 28 and, at stride 16, 14 cells a side.

    Args:
        network: `torchvision.models.inception_v3`; its layers are taken.
        stride: 16 or 8.
        normalised: Whether the new convolutions get batch normalisations.
    """

    LAYERS: Final = (
        "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1",
        "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2",
        "Mixed_5b", "Mixed_5c", "Mixed_5d", "maxpool3",
        "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e",
    )  # fmt: skip

    def __init__(self, network: nn.Module, stride: int, normalised: bool) -> None:
        super().__init__()
        pools = {name: nn.MaxPool2d(3, 2, padding=1, ceil_mode=True) for name in ("maxpool1", "maxpool2")}
        pools["maxpool3"] = nn.MaxPool2d(3, 2, ceil_mode=True)
        for name in self.LAYERS:
            layer = pools[name] if name in pools else getattr(network, name)
            if name == "maxpool3" and stride == 8:
                layer = nn.Identity()
            self.add_module(name, Mixed6a(layer) if name == "Mixed_6a" else layer)
        first: Any = self.Conv2d_1a_3x3
        first.conv.padding = (1, 1)
        for name, new_layer in {
            **_build_convolution(7, 768, normalised, "xavier"),
            **_build_convolution(8, WIDTH, normalised, "xavier"),
        }.items():
            self.add_module(name, new_layer)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) to features (N, 1024, h, w)."""
        x = images
        for layer in self.children():
            x = layer(x)
        return x


class Mixed6a(nn.Module):
    """The first part of Inception's sixth block, which moves by one cell and keeps the size.

    Args:
        block: torchvision's, which moves by two; its layers are taken.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name, layer in block.named_children():
            self.add_module(name, layer)
        for name in ("branch3x3", "branch3x3dbl_3"):
            convolution = self.get_submodule(f"{name}.conv")
            assert isinstance(convolution, nn.Conv2d)
            convolution.stride, convolution.padding = (1, 1), (1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 288, h, w) to (N, 768, h, w)."""
        own: Any = self
        twice = own.branch3x3dbl_3(own.branch3x3dbl_2(own.branch3x3dbl_1(x)))
        pooled = functional.max_pool2d(x, 3, stride=1, padding=1)
        return torch.cat([own.branch3x3(x), twice, pooled], 1)


def inception_v3(network: nn.Module, stride: int = 8, *, normalised: bool = False) -> nn.Module:
    """Inception-v3 to (1024, 224/stride, 224/stride), see `Inception`."""
    _check_stride(stride)
    return Inception(network, stride, normalised)


def new_layers(trunk: nn.Module) -> tuple[str, ...]:
    """The names of the layers that these functions put behind a network."""
    return tuple(name for name, _ in trunk.named_children() if name.startswith(("new_conv", "new_norm")))


def _check_stride(stride: int) -> None:
    if stride not in (8, 16):
        raise InputError(f"map_stride={stride!r}: the paper's trunks have 16 (14×14 maps) or 8 (28×28 maps)")


def _build_convolution(
    number: int, channels: int, normalised: bool, weights: Literal["xavier", "kaiming"]
) -> dict[str, nn.Module]:
    convolution = nn.Conv2d(channels, WIDTH, 3, padding=1)
    if weights == "xavier":
        nn.init.xavier_uniform_(convolution.weight)
    else:
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    layers: dict[str, nn.Module] = {f"new_conv{number}": convolution}
    if normalised:
        layers[f"new_norm{number}"] = nn.BatchNorm2d(WIDTH)
    layers[f"new_relu{number}"] = nn.ReLU()
    return layers
