"""Runs a torch module in evaluation mode and restores its training flags and the random state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from camrt.engine.device import check_gpu
from camrt.engine.tensorrt_plans.cuda_devices import list_cuda_devices
from camrt.engine.torch_models.random_state import preserve_random_state
from camrt.errors import BackendError, UnsupportedModelError
from camrt.export.graph.index import has_trailing_ones
from camrt.export.outputs.class_scores import count_classes
from camrt.export.outputs.output_form import Activation
from camrt.export.outputs.score_kinds import (
    MIN_PROBABILITY,
    ONE_LOGIT_NOTE,
    PLAIN_VALUE_NOTE,
    LogitTransform,
    is_distribution,
    is_implausible_logit,
)
from camrt.export.rewrites.input_form import InputLayout
from camrt.kernels.fork_safety import ForkSafeLock, check_torch_threads

if TYPE_CHECKING:
    from camrt.engine.torch_models.compilation import Compiler

__all__ = ["TorchModel", "clone_detached", "parse_device", "to_float32"]

ENDINGS = {
    torch.ops.aten._softmax.default: "Softmax",
    torch.ops.aten._log_softmax.default: "LogSoftmax",
    torch.ops.aten.sigmoid.default: "Sigmoid",
}

UNIT_INTERVAL_OPS = {
    torch.ops.aten._softmax.default,
    torch.ops.aten.sigmoid.default,
    torch.ops.aten.hardsigmoid.default,
}

RANKING = {
    torch.ops.aten.topk.default: "topk",
    torch.ops.aten.sort.default: "sort",
    torch.ops.aten.sort.stable: "sort",
    torch.ops.aten.max.dim: "max",
}
"""What gives the best scores of each image, by rank and no longer by class, as the first of two."""

_LOCKS: WeakKeyDictionary[torch.nn.Module, ForkSafeLock] = WeakKeyDictionary()
_LOCKS_GUARD = ForkSafeLock()


class TorchModel:
    """A module and how it is run: in evaluation mode, one thread at a time, its classes' logits picked out.

    After every run the training flags of all submodules and the random state are what they were; parameters,
    their `requires_grad` and `.grad`, buffers and hooks are never touched. Engines on one module
    share a lock.

    Attributes:
        ending: What the module ends in, where that says that it gives probabilities; else None.
        reading: What is done to its answers to make logits of them, see `camrt.export.outputs.score_kinds`.
        activation: How logits become probabilities.
        notes: What a user should know of how answers were read.
        writes_input: Whether the module writes into the images it is given: it is then given copies.
        lock: What is held while it runs.

    Args:
        module: The module.
        name: What messages call it.
        device: Where it must be.
        batch: Fixed batch size of its input; None for an open one.
        compiler: What runners do to graphs of it; None has them run the module itself.
        layout: The order of the axes it takes images in; everything else has them (N, C, H, W).
    """

    def __init__(
        self,
        module: torch.nn.Module,
        name: str,
        device: str,
        batch: int | None,
        compiler: Compiler | None = None,
        layout: InputLayout = "NCHW",
    ) -> None:
        self.module = module
        self.name = name
        self.batch = batch
        self.compiler = compiler
        self.layout = layout
        self.output = ""
        self.ending: str | None = None
        self.reading: LogitTransform = "as it is"
        self.activation: Activation = "softmax"
        self.notes: tuple[str, ...] = ()
        self.writes_input = False
        self._device_and_dtype: tuple[torch.device, torch.dtype] | None = None  # known while the module runs
        self._device = parse_device(device)
        with _LOCKS_GUARD:
            self.lock = _LOCKS.setdefault(module, ForkSafeLock())
        self.device_and_dtype()

    def device_and_dtype(self) -> tuple[torch.device, torch.dtype]:
        """The device its parameters and buffers are on, and the type images are cast to.

        Raises:
            BackendError: They are on several devices, on another one than was asked for, or have no values.
        """
        if self._device_and_dtype is not None:
            return self._device_and_dtype
        parts = list(self.module.modules())  # asked for once: going through a large module takes a while
        groups = [part._parameters for part in parts] + [part._buffers for part in parts]
        held = [tensor for group in groups for tensor in group.values() if tensor is not None]
        devices = {tensor.device for tensor in held} or {self._device}
        if torch.device("meta") in devices:
            raise BackendError(
                f"{self.name} has parameters without values (device 'meta'): load its weights first, after "
                "module.to_empty(device='cpu') or with load_state_dict(..., assign=True)"
            )
        if len(devices) > 1:
            names = ", ".join(sorted(map(str, devices)))
            raise BackendError(
                f"the parts of {self.name} are on several devices ({names}): bring them to one with "
                f"module.to({str(self._device)!r})"
            )
        (device,) = devices
        if device.type != self._device.type or self._device.index not in (None, device.index):
            raise BackendError(
                f"{self.name} is on device {str(device)!r}, and device={str(self._device)!r} was asked for: "
                f"move it with module.to({str(self._device)!r}), or pass device={str(device)!r}"
            )
        kinds = [tensor.dtype for tensor in held if tensor.is_floating_point()]
        return device, kinds[0] if kinds else torch.float32

    @contextmanager
    def evaluation_mode(self, *, gradients: bool) -> Iterator[None]:
        """Holds the lock, and evaluation mode, for as long as the block runs.

        Args:
            gradients: Whether operations are recorded for a backward pass, whatever the caller's mode.
        """
        check_torch_threads()
        with ExitStack() as stack:
            stack.enter_context(self.lock)
            device, kind_of_all = self.device_and_dtype()
            stack.enter_context(preserve_random_state(device))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.set_grad_enabled(gradients))
            modes = [(part, part.training) for part in self.module.modules()]
            before, self._device_and_dtype = self._device_and_dtype, (device, kind_of_all)
            try:
                for part, training in modes:
                    if training:
                        part.training = False
                yield
            finally:
                self._device_and_dtype = before
                for part, training in modes:
                    if part.training != training:
                        part.training = training

    def to_tensor(self, values: Any) -> torch.Tensor:
        """An array or a tensor where the module is, of its type; in the same memory where that can be."""
        device, kind = self.device_and_dtype()
        made = values if isinstance(values, torch.Tensor) else torch.from_numpy(np.array(values))
        return made.detach().to(device, kind)

    def allocate_rows(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Memory where the module is, of its type, and laid out as the weights of its convolutions are."""
        device, kind = self.device_and_dtype()
        weights = (weight for weight in self.module.parameters() if weight.ndim == 4)
        first = next((weight for weight in weights if weight.shape[1] > 1 and weight[0, 0].numel() > 1), None)
        last = first is not None and not first.is_contiguous() and len(shape) == 4
        memory = torch.channels_last if last else torch.contiguous_format
        return torch.empty(shape, dtype=kind, device=device, memory_format=memory)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, C) of images, within `evaluation_mode`; a softmax or sigmoid at the end is left out.

        Of answers that are a distribution p without ending so, they are log p.

        Raises:
            BackendError: The module failed.
        """
        if self.writes_input:
            images = images.clone()
        if self.ending is None or self.reading != "as it is":
            return self.to_logits(to_rows(flatten_output(self.call(images))[self.output]))
        seen = EndingTracer()
        with seen:
            self.call(images)
        return to_rows(seen.source)

    def to_logits(self, answers: torch.Tensor) -> torch.Tensor:
        """Logits of answers (N, C)."""
        if self.reading == "as it is":
            return answers
        shares = answers.float()
        logs = shares.clamp_min(MIN_PROBABILITY).log()
        return logs if self.reading == "log" else logs - (1.0 - shares).clamp_min(MIN_PROBABILITY).log()

    def call(self, images: torch.Tensor, module: torch.nn.Module | None = None) -> Any:
        """Whatever the module returns, or another one that is made of it, of images (N, C, H, W)."""
        if self.layout == "NHWC":
            images = images.permute(0, 2, 3, 1).contiguous()
        try:
            return (self.module if module is None else module)(images)
        except torch.OutOfMemoryError:
            raise  # fewer images may fit
        except Exception as error:
            raise BackendError(
                f"{self.name} failed on images of shape {tuple(images.shape)}: {error}"
            ) from error

    def pick_logits(
        self, images: torch.Tensor, wanted: str | None, activation: Activation | None = None
    ) -> torch.Tensor:
        """Finds which output holds the class scores, and what the module ends in, and returns the logits.

        Args:
            images: (N, C, H, W) of noise.
            wanted: Name of the output.
            activation: How logits become probabilities; "none" takes the module's answers as they are, and
                None finds it.

        Raises:
            UnsupportedModelError: No output is (N, C), several are and none was named, or it holds the best
                scores by rank.
        """
        seen, version = EndingTracer(), images._version
        with seen:
            found = flatten_output(self.call(images))
        self.writes_input = images._version != version
        self.output = choose_output(found, len(images), wanted)
        scores = found[self.output]
        if ranking := seen.ranking_of(scores):
            raise UnsupportedModelError(
                f"{self.name} answers with the best scores of each image ({ranking}), whose places are "
                "ranks, not classes: pass the module that gives all scores, or name their output by output="
            )
        if activation != "none" and seen.is_ending(scores):
            self.ending = seen.kind
            self.activation = activation or ("sigmoid" if seen.kind == "Sigmoid" else "softmax")
            return to_rows(seen.source)
        rows = to_rows(scores)
        if activation != "none":
            self._classify_answers(rows.detach(), activation, in_unit=seen.is_bounded(scores))
        self.activation = activation or self.activation
        return self.to_logits(rows)

    def _classify_answers(self, rows: torch.Tensor, activation: Activation | None, *, in_unit: bool) -> None:
        """Takes outputs (N, C) that no softmax or sigmoid made for logits, probabilities or plain values.

        Args:
            rows: The answers to noise.
            activation: What the user says of them.
            in_unit: Whether they are known to lie in [0, 1] whatever the images.
        """
        noted = rows.double().cpu().numpy()
        within = (0.0, 1.0 if in_unit else math.inf)
        if is_distribution(noted, within, max(16.0 * torch.finfo(rows.dtype).eps, 1e-4)):
            self.reading = "logit" if activation == "sigmoid" else "log"
            self.ending = "numbers that sum to one"
            note = "its answers sum to one on noise: read as a distribution p; activation= overrules this"
            self.notes = (note,)
        elif in_unit:
            self.reading = "log" if activation == "softmax" else "logit"
            self.ending = "numbers in [0, 1]"
            self.activation = "sigmoid"
            self.notes = ("its answers lie in [0, 1]: read as sigmoids; activation= overrules this",)
        elif rows.shape[1] == 1 and activation is None:
            plain = is_implausible_logit(noted)
            self.activation = "none" if plain else "sigmoid"
            self.notes = (PLAIN_VALUE_NOTE if plain else ONE_LOGIT_NOTE,)


class EndingTracer(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Records what goes into the last softmax over classes, or sigmoid, of a pass, and what comes out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.source = torch.empty(0)
        self.result: torch.Tensor | None = None
        self.kind = ""
        self._version = 0
        self._bounded: torch.Tensor | None = None
        self._bounded_version = 0
        self._ranked: torch.Tensor | None = None
        self._ranking = ""

    def ranking_of(self, scores: torch.Tensor) -> str:
        """The operator that put scores in the order of their size, where it was the last; else empty."""
        held = self._ranked
        if held is None or held.untyped_storage().data_ptr() != scores.untyped_storage().data_ptr():
            return ""
        return self._ranking

    def is_ending(self, scores: torch.Tensor) -> bool:
        """Whether scores are what was computed last, perhaps in another shape, and not changed since."""
        result = self.result
        if result is None or version_of(result) != self._version:
            return False
        alias = result.data_ptr() == scores.data_ptr() and result.numel() == scores.numel()
        return scores is result or (alias and scores.is_contiguous() and result.is_contiguous())

    def is_bounded(self, scores: torch.Tensor) -> bool:
        """Whether scores are some of what an operator computed last that gives numbers in [0, 1]."""
        held = self._bounded
        if held is None or version_of(held) != self._bounded_version:
            return False
        return held.untyped_storage().data_ptr() == scores.untyped_storage().data_ptr()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.sigmoid.default or (func in ENDINGS and is_class_axis(args[0], args[1])):
            self.source, self.result, self.kind = args[0], result, ENDINGS[func]
            self._version = version_of(result)
        if is_within_unit_interval(func, args):
            self._bounded, self._bounded_version = result, version_of(result)
        if func in RANKING and args[0].ndim == 2:
            self._ranked, self._ranking = result[0], RANKING[func]
        return result


def version_of(tensor: torch.Tensor) -> int:
    """How often a tensor was written into; 0 of one made in inference mode, which does not count."""
    return 0 if tensor.is_inference() else int(tensor._version)


def is_within_unit_interval(func: Any, args: Any) -> bool:
    """Whether an operator gives numbers in [0, 1] whatever it is given."""
    if func is torch.ops.aten.clamp.default:
        low, high = (args[place] if len(args) > place else None for place in (1, 2))
        return low is not None and high is not None and low >= 0.0 and high <= 1.0
    return func in UNIT_INTERVAL_OPS


def is_class_axis(scores: torch.Tensor, axis: int) -> bool:
    """Whether an axis is the only one beside the images' that has more than one number."""
    if scores.ndim < 2 or axis % scores.ndim == 0:
        return False
    return scores.shape[0] * scores.shape[axis] == scores.numel()


def to_rows(scores: torch.Tensor) -> torch.Tensor:
    """Scores as (N, C)."""
    return scores.flatten(1) if scores.ndim > 1 else scores[:, None]


def parse_device(name: str) -> torch.device:
    """A device by its name.

    Raises:
        BackendError: torch knows none of that name, or there is no GPU for it.
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise BackendError(f"device={name!r} is no device torch knows: {error}") from error
    if device.type == "cuda":
        list_cuda_devices()
        check_gpu()
        return device
    try:
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:  # torch was built without it, or it is meta
        raise BackendError(f"device={name!r} cannot be used here: {error!s:.200}") from error
    return device


def flatten_output(output: Any) -> dict[str, torch.Tensor]:
    """The tensors in what a module returns, by name.

    A mapping's keys, the fields of a dataclass or named tuple and the positions of a tuple or list are their
    names, joined by dots where they are nested; a single tensor's name is empty.
    """
    if isinstance(output, torch.Tensor):
        return {"": output}
    if isinstance(output, Mapping):
        items = list(output.items())
    elif is_dataclass(output):
        items = [(field.name, getattr(output, field.name)) for field in fields(output)]
    elif hasattr(output, "_fields"):
        items = list(zip(output._fields, output, strict=True))
    elif isinstance(output, (tuple, list)):
        items = list(enumerate(output))
    else:
        items = []
    return {
        f"{name}.{inner}" if inner else str(name): tensor
        for name, value in items
        for inner, tensor in flatten_output(value).items()
    }


def choose_output(found: dict[str, torch.Tensor], count: int, wanted: str | None) -> str:
    """The name of the output that holds class scores."""
    listing = ", ".join(f"{name!r} {tuple(tensor.shape)}" for name, tensor in found.items()) or "no tensor"
    if wanted is not None and wanted not in found:
        raise UnsupportedModelError(f"there is no output {wanted!r}; the module gives {listing}")
    fitting = [
        name
        for name, tensor in found.items()
        if wanted in (None, name)
        and tensor.is_floating_point()
        and tensor.ndim > 0
        and tensor.shape[0] == count
        and count_classes(tuple(tensor.shape), count) is not None
    ]
    fitting = [name for name in fitting if has_trailing_ones(tuple(found[name].shape))] or fitting
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise UnsupportedModelError(
            f"a classifier's output is (N, C) class scores; for N={count} this module gives {listing}"
        )
    raise UnsupportedModelError(
        f"several outputs could be class scores: {listing}; say which with output='name'"
    )


def to_float32(tensor: torch.Tensor) -> torch.Tensor:
    """A detached copy in float32; the tensor itself where it is one already."""
    return tensor.detach().float()


def clone_detached(tensor: torch.Tensor) -> torch.Tensor:
    """A detached clone, safe from later in-place operations."""
    return tensor.detach().clone()
