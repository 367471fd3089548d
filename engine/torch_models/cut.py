"""A module cut at one of its submodules by hooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from camrt.engine.torch_models.calls import main_tensor, replace_main_tensor
from camrt.engine.torch_models.class_maps import ClassMapTracer
from camrt.engine.torch_models.model import TorchModel, clone_detached, to_float32
from camrt.engine.torch_models.skipped_calls import (
    PROBE_BATCH_SIZES,
    SkippedCalls,
    find_skipped_calls,
    probe_batch,
)
from camrt.engine.torch_models.targets import Candidate
from camrt.errors import BackendError, CutError
from camrt.export.heads.cut import ACTIVATION, extra_input_name
from camrt.kernels.caches import ByteCache

__all__ = ["IMAGE", "PREFIX", "HookedCut"]

IMAGE = extra_input_name(0)
"""Extra input of the head: the images, where a path goes around the cut; else an empty tensor (N, H, W, 0),
whose shape holds the size of the images, so that no GPU is waited for to know it."""
PREFIX = extra_input_name(1)
"""Extra input of the head: the tokens (N, p, K) in front of the patches, where the trunk is left out."""

LOGIT_TOLERANCES = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest relative difference of logits with and without the trunk; 1e-4 in wider types."""


class HookedCut:
    """Captures a submodule's output, and puts another one in its place.

    `has_class_maps` says whether the logits are means of maps.

    Args:
        model: The whole module.
        candidate: Where it is cut.
        calls: How often that submodule is called in a pass; the last of them is meant.
        channels: Colours of the images.
        size: (H, W) of the images it is tried on.
    """

    def __init__(
        self, model: TorchModel, candidate: Candidate, calls: int, channels: int, size: tuple[int, int]
    ) -> None:
        self.model = model
        self.path = candidate.path
        self.layout = candidate.layout
        self._module = candidate.call.module
        self._calls = calls
        self._channels = channels
        self._skipped_calls_by_size: ByteCache[SkippedCalls | None] = ByteCache()
        self.skipped_calls = self._skipped_calls_by_size.get(size, lambda: self._find_verified(size))
        self.has_class_maps = self._finds_class_maps(size)

    @property
    def extra_inputs(self) -> tuple[str, ...]:
        """Names of the inputs that the head takes besides the activation."""
        return (IMAGE, PREFIX) if self.skipped_calls is not None and self.layout.prefix else (IMAGE,)

    @contextmanager
    def capture_output(self) -> Iterator[list[torch.Tensor]]:
        """Notes the submodule's outputs, each as a copy."""
        seen: list[torch.Tensor] = []

        def hook(_: torch.nn.Module, __: Any, output: Any) -> None:
            tensor = main_tensor(output)
            assert tensor is not None
            seen[:] = [clone_detached(tensor)]

        handle = self._module.register_forward_hook(hook)
        try:
            yield seen
        finally:
            handle.remove()

    @contextmanager
    def replace_output(self, maps: torch.Tensor, prefix: torch.Tensor | None, number: int) -> Iterator[None]:
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
            return replace_main_tensor(output, self.layout.from_map(maps, before))

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

    def to_trunk_outputs(self, tensor: torch.Tensor, size: tuple[int, int]) -> dict[str, torch.Tensor]:
        """What a trunk pass gives of a captured output: the activation, and the extra inputs of the head."""
        found = {ACTIVATION: to_float32(self.layout.to_map(tensor, size))}
        if self.skipped_calls is not None:
            found |= self.size_only_inputs(len(tensor), size)
            if self.layout.prefix:
                found[PREFIX] = to_float32(tensor[:, : self.layout.prefix])
        return found

    def size_only_inputs(self, count: int, size: tuple[int, int]) -> dict[str, torch.Tensor]:
        """Extra inputs of a head that needs only the size of the images."""
        return {IMAGE: self.model.allocate_rows((count, *size, 0))}

    def logits(self, maps: torch.Tensor, extra_inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Logits (N, C) of altered maps (N, K, h, w), within `TorchModel.evaluation_mode`."""
        if self.skipped_calls is None:
            images = self.model.to_tensor(extra_inputs[IMAGE])
            with self.replace_output(maps, None, self._calls - 1):
                return self.model.logits(images)
        height, width = extra_inputs[IMAGE].shape[1:3]
        with torch.no_grad():
            skipped = self._skipped_calls_by_size.get(
                (height, width), lambda: self._find_verified((height, width))
            )
        if skipped is None:
            raise CutError(
                f"something goes around {self.path!r} for images {height}×{width}, and nothing did for "
                f"those the module was loaded with: load it with size=({height}, {width})"
            )
        prefix = self.model.to_tensor(extra_inputs[PREFIX]) if self.layout.prefix else None
        return self._run_without_trunk(skipped, maps, prefix, (height, width))

    def class_maps(self, maps: torch.Tensor, extra_inputs: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """(N, C, h, w) whose mean is the logits, or None; within `TorchModel.evaluation_mode`."""
        tracer = ClassMapTracer(maps)
        with tracer:
            logits = self.logits(maps, extra_inputs)
        return tracer.class_maps(logits)

    def _finds_class_maps(self, size: tuple[int, int]) -> bool:
        if self.skipped_calls is None or self.layout.kind != "map":
            return False
        count = self.model.batch or PROBE_BATCH_SIZES[0]
        nothing = self.model.allocate_rows((count, *self.layout.shape)).zero_()
        return self.class_maps(nothing, self.size_only_inputs(count, size)) is not None

    def _run_without_trunk(
        self, skipped: SkippedCalls, maps: torch.Tensor, prefix: torch.Tensor | None, size: tuple[int, int]
    ) -> torch.Tensor:
        nothing = torch.full(
            (len(maps), self._channels, *size), torch.nan, dtype=maps.dtype, device=maps.device
        )
        with skipped.skip(len(maps)), self.replace_output(maps, prefix, skipped.call_index):
            return self.model.logits(nothing)

    def _find_verified(self, size: tuple[int, int]) -> SkippedCalls | None:
        """The calls that can be skipped for images of a size, if the logits are those of the whole module."""
        images = self.model.to_tensor(
            probe_batch(self.model.batch or PROBE_BATCH_SIZES[0], self._channels, size)
        )
        with self.capture_output() as seen:
            expected = self.model.logits(images)
        maps = self.layout.to_map(seen[0], size).to(images.dtype)
        prefix = seen[0][:, : self.layout.prefix]
        for dense in (False, True):
            skipped = find_skipped_calls(self.model, self.path, size, self._channels, dense=dense)
            if skipped is None:
                return None
            try:
                found = self._run_without_trunk(skipped, maps, prefix, size)
            except BackendError:  # code between modules writes into a tensor that has one number in memory
                continue
            scale = float(expected.abs().max()) * LOGIT_TOLERANCES.get(expected.dtype, 1e-4)
            return skipped if bool(((found - expected).abs() <= scale).all()) else None
        return None
