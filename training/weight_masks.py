"""Holding chosen entries of a weight at zero while the rest is trained.

Setting them to zero once is not enough: the gradient and momentum would fill them again, so they are set to
zero after every step of the optimiser. What the optimiser keeps about them is left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from camrt.errors import InputError, TrainingError

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback
    from torch.utils.hooks import RemovableHandle

__all__ = ["ZeroMask", "masking_callback", "register_mask_hook"]


@dataclass(frozen=True, eq=False)
class ZeroMask:
    """Entries of a parameter that are held at zero.

    Attributes:
        parameter: The weight.
        mask: Boolean, True where an entry is held; of the parameter's shape, or of one that is repeated to
            it.

    Raises:
        InputError: The mask is not boolean, or does not fit the parameter.
    """

    parameter: torch.nn.Parameter
    mask: torch.Tensor

    def __post_init__(self) -> None:
        if self.mask.dtype != torch.bool:
            raise InputError(f"mask must be boolean, True where an entry is held, not {self.mask.dtype}")
        try:
            self.mask.expand(self.parameter.shape)
        except RuntimeError:
            shapes = tuple(self.mask.shape), tuple(self.parameter.shape)
            raise InputError(f"a mask of shape {shapes[0]} cannot be repeated to {shapes[1]}") from None

    def apply(self) -> None:
        """Sets the entries to zero, whatever they hold, on whatever device the parameter is."""
        with torch.no_grad():
            self.parameter.masked_fill_(self.mask.to(self.parameter.device), 0.0)


def register_mask_hook(optimizer: torch.optim.Optimizer, masks: Sequence[ZeroMask]) -> RemovableHandle:
    """Applies masks now and after every step of an optimiser.

    A step that a gradient scaler leaves out changes no weight and needs no mask.

    Args:
        optimizer: The optimiser; each mask's parameter is among its own.
        masks: The masks.

    Returns:
        What ends it: `.remove()`.

    Raises:
        TrainingError: The optimiser does not train a mask's parameter, perhaps because the parameter was
            replaced since the mask was made.
    """
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if any(id(mask.parameter) not in trained for mask in masks):
        raise TrainingError("a mask holds a weight that the optimiser does not train: make the mask anew")

    def applied(*_: Any) -> None:
        for mask in masks:
            mask.apply()

    applied()
    return optimizer.register_step_post_hook(applied)


def masking_callback(masks: Sequence[ZeroMask]) -> Callback:
    """A callback of Lightning that holds masks through a fit, for any module and one optimiser.

    Raises:
        TrainingError: Lightning is missing; and when training begins, as `register_mask_hook`, or several
            optimisers.
    """
    try:
        from lightning.pytorch.callbacks import LambdaCallback
    except ModuleNotFoundError as error:
        raise TrainingError(
            f"training needs {error.name}, which is missing: pip install 'camrt[train]'"
        ) from error
    handles: list[RemovableHandle] = []

    def begin(trainer: Any, _: Any) -> None:
        if len(trainer.optimizers) != 1:
            raise TrainingError(f"masks are held for one optimiser, and there are {len(trainer.optimizers)}")
        handles.append(register_mask_hook(trainer.optimizers[0], masks))

    def end(*_: Any) -> None:
        while handles:
            handles.pop().remove()

    return LambdaCallback(on_train_start=begin, on_train_end=end, on_exception=end)
