"""Finds a declared CALM head in a torch module, and takes it only if it reproduces the module's logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from camrt.engine.arrays import to_numpy
from camrt.engine.heads.calm import is_joint_distribution
from camrt.engine.torch_models.model import TorchModel, to_float32

__all__ = ["capture_joint", "find_calm_head"]


@contextmanager
def capture_joint(model: TorchModel, path: str) -> Iterator[list[torch.Tensor]]:
    """Collects what the head gives, log p(y,z|x), while the block runs."""
    seen: list[torch.Tensor] = []

    def keep(_: torch.nn.Module, __: object, output: torch.Tensor) -> None:
        seen.append(output.detach().clone())

    handle = model.module.get_submodule(path).register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def find_calm_head(model: TorchModel, images: torch.Tensor) -> str | None:
    """The path of a module's CALM head, if its logits are log p(y|x); within `TorchModel.evaluation_mode`."""
    for path, part in model.module.named_modules():
        if getattr(part, "kind", None) == "calm" and callable(getattr(part, "log_place", None)):
            with capture_joint(model, path) as seen:
                logits = to_float32(model.logits(images))
            if seen and is_joint_distribution(to_numpy(to_float32(seen[-1])), to_numpy(logits)):
                return str(path)
    return None
