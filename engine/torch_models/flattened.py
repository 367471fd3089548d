"""A module's linear layer on the flattened activation: found by what it is given, then read where it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from camrt.engine.torch_models.calls import Call
from camrt.engine.torch_models.choosing import Candidate
from camrt.engine.torch_models.cutting import HookedCut
from camrt.engine.torch_models.grids import Layout
from camrt.engine.torch_models.runners import HeadForth
from camrt.engine.torch_models.shortcut import BATCHES, probe
from camrt.export.factoring import Factors
from camrt.export.interface import LOGITS
from camrt.kernels.tensors import HALVES

__all__ = ["FlattenedLinear", "flattened_linear"]


@dataclass(frozen=True)
class Vectors(Layout):
    """Rows (N, F) as maps of one cell."""

    def map_of(self, tensor: torch.Tensor, picture: tuple[int, int]) -> torch.Tensor:
        """See `Layout`."""
        return tensor[:, :, None, None]

    def tensor_of(self, maps: torch.Tensor, prefix: torch.Tensor | None) -> torch.Tensor:
        """See `Layout`."""
        return maps.flatten(1).clone()


@dataclass(frozen=True)
class FlattenedLinear:
    """logits = rest(weight · flattened A + bias), with the module's own layer.

    Attributes:
        layer: The layer.
        path: Its path.
        cut: The module cut behind it.
        shape: (K, h, w) of the activations it was found for.
        last: Whether its answers are the logits.
    """

    layer: torch.nn.Linear
    path: str
    cut: HookedCut
    shape: tuple[int, int, int]
    last: bool

    def factors(self) -> Factors:
        """The head's factors, with the numbers that the layer holds now."""
        weight: Any = self.layer.weight.detach().reshape(-1, *self.shape)
        if self.last or weight.dtype not in HALVES:  # gradients are made of the last, and not rounded again
            weight = weight.float()
        bias: Any = torch.zeros(len(weight), device=weight.device)
        if self.layer.bias is not None:
            bias = self.layer.bias.detach().float()
        return Factors("identity", None, None, None, "flatten", (0, 0), weight, bias, None, "", None)

    def rest(self, size: tuple[int, int]) -> Rest | None:
        """What follows the layer, for pictures of (H, W); None where nothing does."""
        return None if self.last else Rest(self.cut, size)


class Rest:
    """What follows the layer, on its answers; see `camrt.engine.backends.Runner`.

    Args:
        cut: The module cut behind the layer.
        size: (H, W) of the pictures.
    """

    outputs = (LOGITS,)

    def __init__(self, cut: HookedCut, size: tuple[int, int]) -> None:
        self._runner = HeadForth(cut)
        self._cut = cut
        self._size = size

    def rows(self, shape: tuple[int, ...]) -> torch.Tensor:
        """See `Runner`."""
        return self._runner.rows(shape)

    def __call__(
        self,
        batch: torch.Tensor,
        fetch: Sequence[str] | None = None,
        beside: Mapping[str, torch.Tensor] | None = None,
    ) -> list[torch.Tensor]:
        """Logits of the layer's answers (N, F)."""
        return self._runner(batch[:, :, None, None], None, self._cut.sized(len(batch), self._size))


def flattened_linear(cut: HookedCut, channels: int, size: tuple[int, int]) -> FlattenedLinear | None:
    """The layer that is given the flattened activation and nothing else, within `Subject.running`.

    It is recognised by being given the numbers of noise. Nothing may go around it.

    Args:
        cut: Where the module is cut.
        channels: Colours of the pictures.
        size: (H, W) of the pictures it is tried on.

    Returns:
        None when there is none.
    """
    if cut.shortcut is None or cut.layout.kind != "map":
        return None
    subject = cut.subject
    count = subject.batch or BATCHES[0]
    maps, *cells = cut.layout.shape
    activations = subject.tensor(probe(count, maps, (cells[0], cells[1])))
    given: dict[str, list[bool]] = {}
    handles = [
        part.register_forward_pre_hook(noting(given.setdefault(path, []), activations.flatten(1)))
        for path, part in subject.module.named_modules()
        if type(part) is torch.nn.Linear
    ]
    try:
        cut.logits(activations, cut.sized(len(activations), size))
    finally:
        for handle in handles:
            handle.remove()
    for path, calls in given.items():
        if calls != [True]:
            continue
        layer = subject.module.get_submodule(path)
        assert isinstance(layer, torch.nn.Linear)
        layout = Vectors("tokens", (layer.out_features, 1, 1))
        behind = HookedCut(subject, Candidate(Call(path, layer, None, 0), layout, True), 1, channels, size)
        if behind.shortcut is not None:
            answers = subject.tensor(probe(count, layer.out_features, (1, 1)))
            logits = behind.logits(answers, behind.sized(count, size))
            last = torch.equal(logits, answers.flatten(1))
            return FlattenedLinear(layer, path, behind, cut.layout.shape, last)
    return None


def noting(calls: list[bool], expected: torch.Tensor) -> Any:
    """A hook that notes of each call whether it was given those numbers."""

    def hook(_: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        first = inputs[0] if inputs else None
        calls.append(isinstance(first, torch.Tensor) and torch.equal(first, expected))

    return hook
