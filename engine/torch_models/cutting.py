"""A module cut at one of its submodules by hooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from camrt.engine.torch_models.calls import main_tensor, with_main
from camrt.engine.torch_models.choosing import Candidate
from camrt.engine.torch_models.class_maps import Following
from camrt.engine.torch_models.shortcut import BATCHES, Shortcut, probe, shortcut
from camrt.engine.torch_models.subject import Subject, copied, single
from camrt.errors import BackendError, CutError
from camrt.export.cutting import ACTIVATION, beside_name
from camrt.kernels.caches import ByteCache

__all__ = ["PICTURE", "PREFIX", "HookedCut"]

PICTURE = beside_name(0)
"""What the head needs of the picture: all of it where something goes around the cut. Else only its size, and
then this is empty, of shape (N, H, W, 0): a size that lies on the host, wherever tensors lie."""
PREFIX = beside_name(1)
"""The tokens (N, p, K) in front of the patches, where the trunk is left out."""

SAME_RESULT = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest relative difference of logits with and without the trunk; 1e-4 in wider types."""


class HookedCut:
    """Captures a submodule's output, and puts another one in its place.

    `has_class_maps` says whether the logits are means of maps.

    Args:
        subject: The whole module.
        candidate: Where it is cut.
        calls: How often that submodule is called in a pass; the last of them is meant.
        channels: Colours of the pictures.
        size: (H, W) of the pictures it is tried on.
    """

    def __init__(
        self, subject: Subject, candidate: Candidate, calls: int, channels: int, size: tuple[int, int]
    ) -> None:
        self.subject = subject
        self.path = candidate.path
        self.layout = candidate.layout
        self._module = candidate.call.module
        self._calls = calls
        self._channels = channels
        self._shortcuts: ByteCache[Shortcut | None] = ByteCache()
        self.shortcut = self._shortcuts.get(size, lambda: self._verified(size))
        self.has_class_maps = self._finds_class_maps(size)

    @property
    def beside(self) -> tuple[str, ...]:
        """What the head takes beside the activation."""
        return (PICTURE, PREFIX) if self.shortcut is not None and self.layout.prefix else (PICTURE,)

    @contextmanager
    def captured(self) -> Iterator[list[torch.Tensor]]:
        """Notes the submodule's outputs, each as a copy."""
        seen: list[torch.Tensor] = []

        def hook(_: torch.nn.Module, __: Any, output: Any) -> None:
            tensor = main_tensor(output)
            assert tensor is not None
            seen[:] = [copied(tensor)]

        handle = self._module.register_forward_hook(hook)
        try:
            yield seen
        finally:
            handle.remove()

    @contextmanager
    def replaced(self, maps: torch.Tensor, prefix: torch.Tensor | None, number: int) -> Iterator[None]:
        """Puts maps (N, K, h, w) in place of what call `number` of the submodule gives."""
        made = 0

        def hook(_: torch.nn.Module, __: Any, output: Any) -> Any:
            nonlocal made
            made += 1
            if made != number + 1:
                return output
            if maps.requires_grad:
                torch.set_grad_enabled(True)  # where the module itself turned gradients off
            tensor = main_tensor(output)
            assert tensor is not None
            before = tensor[:, : self.layout.prefix] if prefix is None else prefix
            return with_main(output, self.layout.tensor_of(maps, before))

        handle = self._module.register_forward_hook(hook)
        try:
            yield
            if made != number + 1:
                raise BackendError(
                    f"{self.path!r} was called {made} times in a pass, and {number + 1} times when the "
                    "module was loaded: such a module cannot be explained there"
                )
        finally:
            handle.remove()

    def shown(self, tensor: torch.Tensor, size: tuple[int, int]) -> dict[str, torch.Tensor]:
        """What a trunk pass gives of a captured output: the activation, and what the head takes beside it."""
        found = {ACTIVATION: single(self.layout.map_of(tensor, size))}
        if self.shortcut is not None:
            found |= self.sized(len(tensor), size)
            if self.layout.prefix:
                found[PREFIX] = single(tensor[:, : self.layout.prefix])
        return found

    def sized(self, count: int, size: tuple[int, int]) -> dict[str, torch.Tensor]:
        """What the head takes beside the activation of pictures of which only the size matters."""
        return {PICTURE: self.subject.rows((count, *size, 0))}

    def logits(self, maps: torch.Tensor, beside: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Logits (N, C) of altered maps (N, K, h, w), within `Subject.running`."""
        if self.shortcut is None:
            pictures = self.subject.tensor(beside[PICTURE])
            with self.replaced(maps, None, self._calls - 1):
                return self.subject.logits(pictures)
        height, width = beside[PICTURE].shape[1:3]
        with torch.no_grad():
            way = self._shortcuts.get((height, width), lambda: self._verified((height, width)))
        if way is None:
            raise CutError(
                f"something goes around {self.path!r} for pictures {height}×{width}, and nothing did for "
                f"those the module was loaded with: load it with size=({height}, {width})"
            )
        prefix = self.subject.tensor(beside[PREFIX]) if self.layout.prefix else None
        return self._without_trunk(way, maps, prefix, (height, width))

    def class_maps(self, maps: torch.Tensor, beside: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """(N, C, h, w) whose mean is the logits, within `Subject.running`; None when there are none."""
        following = Following(maps)
        with following:
            logits = self.logits(maps, beside)
        return following.class_maps(logits)

    def _finds_class_maps(self, size: tuple[int, int]) -> bool:
        if self.shortcut is None or self.layout.kind != "map":
            return False
        count = self.subject.batch or BATCHES[0]
        nothing = self.subject.rows((count, *self.layout.shape)).zero_()
        return self.class_maps(nothing, self.sized(count, size)) is not None

    def _without_trunk(
        self, way: Shortcut, maps: torch.Tensor, prefix: torch.Tensor | None, size: tuple[int, int]
    ) -> torch.Tensor:
        nothing = torch.full(
            (len(maps), self._channels, *size), torch.nan, dtype=maps.dtype, device=maps.device
        )
        with way.taken(len(maps)), self.replaced(maps, prefix, way.number):
            return self.subject.logits(nothing)

    def _verified(self, size: tuple[int, int]) -> Shortcut | None:
        """The shortcut for pictures of a size, if it gives the logits that the whole module gives."""
        pictures = self.subject.tensor(probe(self.subject.batch or BATCHES[0], self._channels, size))
        with self.captured() as seen:
            expected = self.subject.logits(pictures)
        maps = self.layout.map_of(seen[0], size).to(pictures.dtype)
        prefix = seen[0][:, : self.layout.prefix]
        for dense in (False, True):
            way = shortcut(self.subject, self.path, size, self._channels, dense=dense)
            if way is None:
                return None
            try:
                found = self._without_trunk(way, maps, prefix, size)
            except BackendError:  # code between modules writes into a tensor that has one number in memory
                continue
            scale = float(expected.abs().max()) * SAME_RESULT.get(expected.dtype, 1e-4)
            return way if bool(((found - expected).abs() <= scale).all()) else None
        return None
