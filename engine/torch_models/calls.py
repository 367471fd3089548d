"""The module calls of a forward pass, in order, with the shapes of what they gave."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

__all__ = [
    "Call",
    "TensorSpec",
    "UnknownStructure",
    "class_name",
    "main_tensor",
    "record_calls",
    "replace_main_tensor",
]


@dataclass(frozen=True)
class TensorSpec:
    """A floating-point tensor, without its values."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class UnknownStructure:
    """An output holding something that could not be made again from its shape."""


@dataclass(eq=False)
class Call:
    """One call of a module.

    Attributes:
        path: The module's path.
        module: The module.
        parent: The call it happened in; None for those the outermost module makes itself.
        start: When it began, counted in events.
        end: When it ended.
        output: What it gave: `TensorSpec` for tensors, in tuples, lists and dicts; or `UnknownStructure`.
        shape: Of its main tensor, if it has one.
        edge: That tensor's place in the autograd graph when it left the module: node and output number.
    """

    path: str
    module: torch.nn.Module
    parent: Call | None
    start: int
    end: int = -1
    output: Any = None
    shape: tuple[int, ...] | None = None
    edge: tuple[Any, int] | None = None


@contextmanager
def record_calls(module: torch.nn.Module) -> Iterator[list[Call]]:
    """Hooks every submodule; the calls are listed in the order they began.

    A user's hooks run inside: what they change is part of what a module gives.
    """
    calls: list[Call] = []
    running: list[Call] = []
    events = iter(range(1 << 62))

    def begun(path: str) -> Any:
        def hook(part: torch.nn.Module, _: Any) -> None:
            call = Call(path, part, running[-1] if running else None, next(events))
            calls.append(call)
            running.append(call)

        return hook

    def ended(_: torch.nn.Module, __: Any, output: Any) -> None:
        call = running.pop()
        call.end = next(events)
        call.output = to_specs(output)
        tensor = main_tensor(output)
        if tensor is not None and tensor.is_floating_point():
            call.shape = tuple(tensor.shape)
            call.edge = (tensor.grad_fn, tensor.output_nr)

    with ExitStack() as stack:
        for path, part in module.named_modules():
            if path:
                stack.callback(part.register_forward_pre_hook(begun(path), prepend=True).remove)
                stack.callback(part.register_forward_hook(ended).remove)
        yield calls


def to_specs(output: Any) -> Any:
    """An output with its tensors' shapes in their place."""
    if isinstance(output, torch.Tensor) and output.is_floating_point():
        return TensorSpec(tuple(output.shape), output.dtype, output.device)
    if output is None:
        return None
    if type(output) in (tuple, list):
        parts = [to_specs(part) for part in output]
        return UnknownStructure() if has_unknown(parts) else type(output)(parts)
    if type(output) is dict:
        entries = {key: to_specs(part) for key, part in output.items()}
        return UnknownStructure() if has_unknown(entries.values()) else entries
    return UnknownStructure()


def has_unknown(parts: Any) -> bool:
    return any(isinstance(part, UnknownStructure) for part in parts)


def main_tensor(output: Any) -> torch.Tensor | None:
    """The tensor a module's output stands for: itself, or the first of a tuple or list."""
    if type(output) in (tuple, list) and len(output):
        output = output[0]
    return output if isinstance(output, torch.Tensor) else None


def replace_main_tensor(output: Any, tensor: torch.Tensor) -> Any:
    """An output with another main tensor."""
    if isinstance(output, torch.Tensor):
        return tensor
    return type(output)([tensor, *output[1:]])


def class_name(module: torch.nn.Module) -> str:
    """The module's class; the original one of a module that came out of `torch.export.unflatten`."""
    exported = getattr(module, "type_name", None)
    name = exported() if callable(exported) else None
    return name.rpartition(".")[2] if isinstance(name, str) else type(module).__name__
