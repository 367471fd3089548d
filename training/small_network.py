"""Small residual CNNs that end in global average pooling; one of them is the embedded classifier's.

Strides of four and two leave a map of an eighth of the input's side; all that follows the map is its mean
over space and one linear layer, so the class activation map of class c is exactly Σ_k W[c,k]·A_k.
"""

from __future__ import annotations

import torch
from torch import nn

from camrt.training.heads import CALMHead, HeadKind

__all__ = ["STRIDE", "SmallNetwork", "TinyNetwork"]

STRIDE = 8
"""Side of the input square that one cell of the final map stands for, in pixels."""


class ConvNorm(nn.Module):
    """A convolution that keeps the size (divided by its stride), followed by a batch normalisation."""

    def __init__(self, inputs: int, outputs: int, side: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, inputs, H, W) to (N, outputs, ⌈H/stride⌉, ⌈W/stride⌉)."""
        normed: torch.Tensor = self.norm(self.conv(x))
        return normed


class Residual(nn.Module):
    """x + f(x), rectified, where f is a chain of convolutions with a rectifier between each two."""

    def __init__(self, *chain: ConvNorm) -> None:
        super().__init__()
        self.chain = nn.ModuleList(chain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keeps the shape (N, K, h, w)."""
        y = x
        for index, layer in enumerate(self.chain):
            y = layer(torch.relu(y) if index else y)
        return torch.relu(x + y)


def _basic(width: int) -> Residual:
    return Residual(ConvNorm(width, width), ConvNorm(width, width))


def _bottleneck(width: int, inner: int) -> Residual:
    return Residual(ConvNorm(width, inner, 1), ConvNorm(inner, inner, 3), ConvNorm(inner, width, 1))


class SmallNetwork(nn.Module):
    """A residual classifier of about 450 thousand parameters.

    Args:
        classes: C, the number of logits.
        head: "cam", a linear layer behind the mean of the map; or "calm", whose logits are log p(y|x).
    """

    head: nn.Linear | CALMHead

    def __init__(self, classes: int, head: HeadKind = "cam") -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            ConvNorm(3, 48, side=7, stride=4),
            nn.ReLU(),
            _basic(48),
            ConvNorm(48, 96, stride=2),
            nn.ReLU(),
            _basic(96),
            ConvNorm(96, 160, side=1),
            nn.ReLU(),
            _bottleneck(160, 64),
            _bottleneck(160, 64),
            _bottleneck(160, 64),
        )
        self.head = nn.Linear(160, classes) if head == "cam" else CALMHead(160, classes)

    def activations(self, x: torch.Tensor) -> torch.Tensor:
        """The final map: (N, 3, H, W) to (N, 160, ⌈H/8⌉, ⌈W/8⌉), never negative."""
        final: torch.Tensor = self.trunk(x)
        return final

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, 3, H, W) to logits (N, C)."""
        final = self.activations(x)
        if isinstance(self.head, CALMHead):
            return self.head.scores(final)
        logits: torch.Tensor = self.head(final.mean((2, 3)))
        return logits


class TinyNetwork(nn.Module):
    """A residual classifier of about 60 thousand parameters, for trying things out.

    Args:
        classes: C, the number of logits.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            ConvNorm(3, 24, side=5, stride=4),
            nn.ReLU(),
            _basic(24),
            ConvNorm(24, 48, stride=2),
            nn.ReLU(),
            _basic(48),
        )
        self.head = nn.Linear(48, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, 3, H, W) to logits (N, C)."""
        logits: torch.Tensor = self.head(self.trunk(x).mean((2, 3)))
        return logits
