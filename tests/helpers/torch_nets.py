"""Small torch classifiers, each with a habit of real ones, and what they give when altered, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn, functional = torch.nn, torch.nn.functional

CLASSES = 5


class Modular(nn.Module):
    """Modules all the way, batch norm, in-place ReLUs behind the convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.body = nn.Conv2d(6, 8, 3, 1, 1)
        self.relu = nn.ReLU(inplace=True)
        self.last = nn.Conv2d(8, 7, 3, 2, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(7, CLASSES)

    def forward(self, images: Any) -> Any:
        x = self.relu(self.body(self.stem(images)))
        x = self.relu(self.last(x))
        return self.head(self.pool(x).flatten(1))


class Functional(nn.Module):
    """Functions between modules, and into tensors in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, 2, 1)
        self.second = nn.Conv2d(6, 6, 3, 1, 1)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, images: Any) -> Any:
        x = self.first(images)
        x += 0.25
        x = functional.relu(self.second(functional.relu(x)), inplace=True)
        return self.head(x.mean((2, 3)))


class Residual(Modular):
    """A connection around `body`."""

    def forward(self, images: Any) -> Any:
        x = self.stem(images)
        y = self.body(x)
        x = self.last(self.relu(y[:, :6] + x).repeat(1, 2, 1, 1)[:, :8])
        return self.head(self.pool(self.relu(x)).flatten(1))


class Transformer(nn.Module):
    """A vision transformer with `prefix` tokens in front, its scores read off the first token."""

    def __init__(self, prefix: int = 1, blocks: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.front = nn.Parameter(torch.randn(1, prefix, 8))
        self.places = nn.Parameter(0.1 * torch.randn(1, 12 + prefix, 8))
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images: Any) -> Any:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.front.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.mix = nn.Linear(8, 24)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Any) -> Any:
        q, k, v = self.mix(self.norm(x)).chunk(3, dim=-1)
        x = x + torch.softmax(q @ k.transpose(1, 2) / 8**0.5, dim=-1) @ v
        return x + self.mlp(x)


def build_net(kind: Callable[[], Any], seed: int = 0) -> Any:
    """A network with batch statistics of its own, in evaluation mode."""
    torch.manual_seed(seed)
    net = kind()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net.eval()


def random_images(count: int = 3, height: int = 12, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, height, width), np.float32)


def altered_logits(net: Any, path: str, batch: np.ndarray, alter: Callable[[Any], Any]) -> np.ndarray:
    """Logits in float64 with the last output of a module put through `alter`."""
    twin = copy.deepcopy(net).double().eval()
    calls = []
    count = twin.get_submodule(path).register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        twin(torch.from_numpy(batch).double())
        count.remove()
        left = len(calls)

        def hook(_: Any, __: Any, output: Any) -> Any:
            nonlocal left
            left -= 1
            return output if left else alter(output.clone())

        twin.get_submodule(path).register_forward_hook(hook)
        return twin(torch.from_numpy(batch).double()).numpy()


def activation_and_gradient(
    net: Any, path: str, batch: np.ndarray, classes: Any
) -> tuple[np.ndarray, np.ndarray]:
    """In float64, the last output of a module, and the gradient there of one logit an image."""
    twin = copy.deepcopy(net).double().eval()
    caught: list[Any] = []

    def hook(_: Any, __: Any, output: Any) -> Any:
        caught[:] = [output.detach().clone().requires_grad_()]
        return caught[0].clone()

    twin.get_submodule(path).register_forward_hook(hook)
    logits = twin(torch.from_numpy(batch).double())
    logits[np.arange(len(batch)), classes].sum().backward()
    return caught[0].detach().numpy(), caught[0].grad.numpy()
