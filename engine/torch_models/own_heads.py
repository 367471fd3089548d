"""A CALM head inside a torch module, believed when its numbers are what they should be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from camrt.engine.arrays import host
from camrt.engine.own_heads import is_distribution
from camrt.engine.torch_models.subject import Subject, single

__all__ = ["calm_head", "joint_seen"]


@contextmanager
def joint_seen(subject: Subject, path: str) -> Iterator[list[torch.Tensor]]:
    """Collects what the head gives, log p(y,z|x), while the block runs."""
    seen: list[torch.Tensor] = []

    def keep(_: torch.nn.Module, __: object, output: torch.Tensor) -> None:
        seen.append(output.detach().clone())

    handle = subject.module.get_submodule(path).register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def calm_head(subject: Subject, pictures: torch.Tensor) -> str | None:
    """The path of the module's CALM head, if its logits are log p(y|x), within `Subject.running`."""
    for path, part in subject.module.named_modules():
        if getattr(part, "kind", None) == "calm" and callable(getattr(part, "log_place", None)):
            with joint_seen(subject, path) as seen:
                logits = single(subject.logits(pictures))
            if seen and is_distribution(host(single(seen[-1])), host(logits)):
                return str(path)
    return None
