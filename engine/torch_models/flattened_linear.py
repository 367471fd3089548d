"""A module's linear layer on the flattened activation: found by what it is given, then read where it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from typing_extensions import override

from camrt.engine.torch_models.calls import Call
from camrt.engine.torch_models.cut import HookedCut
from camrt.engine.torch_models.map_layout import MapLayout
from camrt.engine.torch_models.runners import HeadForward
from camrt.engine.torch_models.skipped_calls import PROBE_BATCH_SIZES, probe_batch
from camrt.engine.torch_models.targets import Candidate
from camrt.export.heads.factoring import Factors
from camrt.export.rewrites.interface import LOGITS
from camrt.kernels.tensor_checks import HALVES

__all__ = ["FlattenedLinear", "find_flattened_linear"]


@dataclass(frozen=True)
class VectorLayout(MapLayout):
    """Rows (N, F) as maps of one cell."""

    @override
    def to_map(self, tensor: torch.Tensor, image: tuple[int, int]) -> torch.Tensor:
        return tensor[:, :, None, None]

    @override
    def from_map(self, maps: torch.Tensor, prefix: torch.Tensor | None) -> torch.Tensor:
        return maps.flatten(1).clone()


@dataclass(frozen=True)
class FlattenedLinear:
    """logits = rest(weight · flattened A + bias), with the module's own layer.

    Attributes:
        layer: The layer.
        path: Its path.
        cut: The module cut behind it.
        shape: (K, h, w) of the activations it was found for.
        gives_logits: Whether its answers are the logits.
    """

    layer: torch.nn.Linear
    path: str
    cut: HookedCut
    shape: tuple[int, int, int]
    gives_logits: bool

    def factors(self) -> Factors:
        """The head's factors, with the numbers that the layer holds now."""
        weight: Any = self.layer.weight.detach().reshape(-1, *self.shape)
        if (
            self.gives_logits or weight.dtype not in HALVES
        ):  # gradients are made of the last, and not rounded again
            weight = weight.float()
        bias: Any = torch.zeros(len(weight), device=weight.device)
        if self.layer.bias is not None:
            bias = self.layer.bias.detach().float()
        return Factors(reduction="flatten", weight=weight, bias=bias)

    def rest(self, size: tuple[int, int]) -> RestRunner | None:
        """What follows the layer, for images of (H, W); None where nothing does."""
        return None if self.gives_logits else RestRunner(self.cut, size)


class RestRunner:
    """What follows the layer, on its answers; see `camrt.engine.runtime.Runner`.

    Args:
        cut: The module cut behind the layer.
        size: (H, W) of the images.
    """

    outputs = (LOGITS,)

    def __init__(self, cut: HookedCut, size: tuple[int, int]) -> None:
        self._runner = HeadForward(cut)
        self._cut = cut
        self._size = size

    def allocate_rows(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Allocates a buffer for rows that this runner is given."""
        return self._runner.allocate_rows(shape)

    def __call__(
        self,
        batch: torch.Tensor,
        fetch: Sequence[str] | None = None,
        extra_inputs: Mapping[str, torch.Tensor] | None = None,
    ) -> list[torch.Tensor]:
        """Logits of the layer's answers (N, F)."""
        return self._runner(batch[:, :, None, None], None, self._cut.size_only_inputs(len(batch), self._size))


def find_flattened_linear(cut: HookedCut, channels: int, size: tuple[int, int]) -> FlattenedLinear | None:
    """The layer that is given the flattened activation and nothing else, within `TorchModel.evaluation_mode`.

    It is recognised by being given the numbers of noise. Nothing may go around it.

    Args:
        cut: Where the module is cut.
        channels: Colours of the images.
        size: (H, W) of the images it is tried on.

    Returns:
        None when there is none.
    """
    if cut.skipped_calls is None or cut.layout.kind != "map":
        return None
    model = cut.model
    count = model.batch or PROBE_BATCH_SIZES[0]
    maps, *cells = cut.layout.shape
    activations = model.to_tensor(probe_batch(count, maps, (cells[0], cells[1])))
    given: dict[str, list[bool]] = {}
    handles = [
        part.register_forward_pre_hook(make_input_check(given.setdefault(path, []), activations.flatten(1)))
        for path, part in model.module.named_modules()
        if type(part) is torch.nn.Linear
    ]
    try:
        cut.logits(activations, cut.size_only_inputs(len(activations), size))
    finally:
        for handle in handles:
            handle.remove()
    for path, calls in given.items():
        if calls != [True]:
            continue
        layer = model.module.get_submodule(path)
        assert isinstance(layer, torch.nn.Linear)
        layout = VectorLayout("tokens", (layer.out_features, 1, 1))
        behind = HookedCut(model, Candidate(Call(path, layer, None, 0), layout, True), 1, channels, size)
        if behind.skipped_calls is not None:
            answers = model.to_tensor(probe_batch(count, layer.out_features, (1, 1)))
            logits = behind.logits(answers, behind.size_only_inputs(count, size))
            last = torch.equal(logits, answers.flatten(1))
            return FlattenedLinear(layer, path, behind, cut.layout.shape, last)
    return None


def make_input_check(calls: list[bool], expected: torch.Tensor) -> Any:
    """A hook that notes of each call whether it was given those numbers."""

    def hook(_: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        first = inputs[0] if inputs else None
        calls.append(isinstance(first, torch.Tensor) and torch.equal(first, expected))

    return hook
