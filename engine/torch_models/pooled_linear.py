"""A module's linear layer behind global pooling: found once by what it does, then read where it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from camrt.engine.torch_models.cut import LOGIT_TOLERANCES, HookedCut
from camrt.engine.torch_models.model import to_float32
from camrt.engine.torch_models.skipped_calls import PROBE_BATCH_SIZES, probe_batch
from camrt.export.heads.factoring import Factors
from camrt.kernels.tensor_checks import HALVES

__all__ = ["CellwiseLinear", "PooledLinear", "find_pooled_linear"]


@dataclass(frozen=True)
class PooledLinear:
    """logits = weight · mean over cells of A + bias, with the module's own parameters.

    Attributes:
        module: The module.
        weight: The path of a parameter (C, K) or (C, K, 1, 1).
        bias: The path of a parameter (C,); None for none.
    """

    module: torch.nn.Module
    weight: str
    bias: str | None

    def factors(self) -> Factors:
        """The head's factors, with the numbers that the parameters hold now."""
        held = self.module.get_parameter(self.weight)
        weight: Any = to_float32(held.flatten(1))
        bias: Any = torch.zeros(len(weight), device=weight.device)
        if self.bias is not None:
            bias = to_float32(self.module.get_parameter(self.bias))
        return Factors(reduction="mean", weight=weight, bias=bias)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.module.get_parameter(self.weight).device

    @property
    def half_dtype(self) -> torch.dtype | None:
        """The half type that the module computes in; None where it is none."""
        kind = self.module.get_parameter(self.weight).dtype
        return kind if kind in HALVES else None


class CellwiseLinear:
    """The layer done to every cell; see `camrt.engine.runtime.Runner`.

    Args:
        weight: (C, K).
    """

    outputs = ("",)

    def __init__(self, weight: Any) -> None:
        self._weight = weight

    def allocate_rows(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Allocates a buffer for rows that this runner is given."""
        return torch.empty(shape, device=self._weight.device)

    def __call__(
        self,
        batch: torch.Tensor,
        fetch: Sequence[str] | None = None,
        extra_inputs: Mapping[str, torch.Tensor] | None = None,
    ) -> list[torch.Tensor]:
        """(N, h, w, C) of maps (N, K, h, w)."""
        made: torch.Tensor = batch.permute(0, 2, 3, 1) @ self._weight.T
        return [made]


def find_pooled_linear(cut: HookedCut, size: tuple[int, int]) -> PooledLinear | None:
    """The parameters that make logits of an activation, or None; within `TorchModel.evaluation_mode`.

    They are recognised by what they give for noise.

    Args:
        cut: Where the module is cut.
        size: (H, W) of the images it is tried on.
    """
    if not cut.has_class_maps:
        return None
    model = cut.model
    channels, *cells = cut.layout.shape
    activations = model.to_tensor(
        probe_batch(model.batch or PROBE_BATCH_SIZES[0], channels, (cells[0], cells[1]))
    )
    extra_inputs = cut.size_only_inputs(len(activations), size)
    found = cut.class_maps(activations, extra_inputs)
    if found is None:  # of other numbers there were
        return None
    maps, logits = to_float32(found), to_float32(cut.logits(activations, extra_inputs))
    near = LOGIT_TOLERANCES.get(found.dtype, 1e-4) * float(maps.abs().max())
    if not is_close(maps.mean(dim=(2, 3)), logits, near):
        return None  # a border that padding put around the cells takes part in the mean
    named = dict(model.module.named_parameters())
    for path, weight in named.items():
        if tuple(weight.shape) not in ((logits.shape[1], channels), (logits.shape[1], channels, 1, 1)):
            continue
        rest = maps - torch.einsum("ck,nkij->ncij", to_float32(weight.flatten(1)), to_float32(activations))
        constant = rest.mean(dim=(0, 2, 3))
        if not is_close(rest, constant[None, :, None, None], near):
            continue
        own_bias = f"{path.rpartition('.')[0]}.bias".lstrip(".")
        for other in dict.fromkeys([own_bias, *named]):
            bias = named.get(other)
            if (
                bias is not None
                and bias.shape == constant.shape
                and is_close(to_float32(bias), constant, near)
            ):
                return PooledLinear(model.module, path, other)
        if is_close(constant, torch.zeros_like(constant), near):
            return PooledLinear(model.module, path, None)
    return None


def is_close(one: torch.Tensor, other: torch.Tensor, near: float) -> bool:
    return bool(((one - other).abs() <= near).all())
