"""An ONNX file's graph in float64, operator by operator in torch, for real classifiers.

It shares nothing with the engine: operators are written from ONNX's definitions, nodes run in file order,
and gradients are torch's. Floating-point numbers of any width are float64 here, whole numbers int64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch.nn import functional

__all__ = ["TorchGraph"]

Tensor = torch.Tensor
Rectifier = Callable[[Tensor], Tensor]


class Guided(torch.autograd.Function):
    """A ReLU that passes on gradients that are positive, where its input is."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (x,) = context.saved_tensors
        return gradient * (x > 0) * (gradient > 0)


class TorchGraph:
    """The graph of a file.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        graph = onnx.load(path).graph
        self.nodes = list(graph.node)
        self.constants = {one.name: to_float64(numpy_helper.to_array(one)) for one in graph.initializer}
        self.input = graph.input[0].name
        self.output = graph.output[0].name

    def run(
        self, feeds: Mapping[str, Tensor], wanted: Iterable[str], *, guided: bool = False
    ) -> list[Tensor]:
        """Tensors of the graph, given others: the image, or what an activation is replaced by."""
        wanted = list(wanted)
        values = {**self.constants, **feeds}
        needed, chosen = set(wanted), []
        for node in reversed(self.nodes):
            if any(name in needed and name not in feeds for name in node.output):
                chosen.append(node)
                needed.update(node.input)
        rectify: Rectifier = Guided.apply if guided else torch.relu
        for node in reversed(chosen):
            inputs = [values[name] if name else None for name in node.input]
            attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
            if node.op_type == "Relu":
                values[node.output[0]] = rectify(inputs[0])
            else:
                values[node.output[0]] = OPERATORS[node.op_type](*inputs, **attributes)
        return [values[name] for name in wanted]


def to_float64(array: np.ndarray) -> Tensor:
    kind = np.float64 if array.dtype.kind == "f" else bool if array.dtype.kind == "b" else np.int64
    return torch.from_numpy(np.array(array, kind))


def numbers(tensor: Tensor) -> list[int]:
    return [int(value) for value in tensor.reshape(-1)]


def padded(x: Tensor, pads: list[int], value: float) -> Tensor:
    """Borders of the last axes, before and after as ONNX orders them."""
    count = len(pads) // 2
    order = [side for axis in reversed(range(count)) for side in (pads[axis], pads[axis + count])]
    return functional.pad(x, order, value=value) if any(pads) else x


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, **a: Any) -> Tensor:
    assert a.get("auto_pad", b"NOTSET") == b"NOTSET"
    x = padded(x, list(a.get("pads", [0, 0, 0, 0])), 0.0)
    strides, gaps = tuple(a.get("strides", (1, 1))), tuple(a.get("dilations", (1, 1)))
    return functional.conv2d(x, weight, bias, strides, 0, gaps, a.get("group", 1))


def max_pool(x: Tensor, *, kernel_shape: list[int], **a: Any) -> Tensor:
    assert a.get("auto_pad", b"NOTSET") == b"NOTSET"
    assert not a.get("ceil_mode", 0)
    x = padded(x, list(a.get("pads", [0, 0, 0, 0])), -float("inf"))
    return functional.max_pool2d(x, kernel_shape, tuple(a.get("strides", (1, 1))))


def average_pool(x: Tensor, *, kernel_shape: list[int], **a: Any) -> Tensor:
    assert not any(a.get("pads", [0]))
    return functional.avg_pool2d(x, kernel_shape, tuple(a.get("strides", (1, 1))))


def batch_normalise(
    x: Tensor, gain: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, **a: Any
) -> Tensor:
    gain = gain / (variance + a.get("epsilon", 1e-5)).sqrt()
    return x * gain[:, None, None] + (bias - mean * gain)[:, None, None]


def cut_out(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Any = None) -> Tensor:
    places = range(len(starts)) if axes is None else numbers(axes)
    jumps = [1] * len(starts) if steps is None else numbers(steps)
    for axis, start, end, jump in zip(places, numbers(starts), numbers(ends), jumps, strict=True):
        kept = list(range(x.shape[axis]))[slice(start, None if end < -x.shape[axis] else end, jump)]
        x = x.index_select(axis, torch.tensor(kept))
    return x


def pad(x: Tensor, pads: Tensor, value: Tensor | None = None, *, mode: bytes = b"constant") -> Tensor:
    """Edge pads take the nearest number, place by place."""
    sides = numbers(pads)
    if mode == b"constant":
        return padded(x, sides, 0.0 if value is None else float(value))
    assert mode == b"edge"
    for axis, (before, after) in enumerate(zip(sides[: x.ndim], sides[x.ndim :], strict=True)):
        places = torch.arange(-before, x.shape[axis] + after).clamp(0, x.shape[axis] - 1)
        x = x.index_select(axis, places)
    return x


def reshape(x: Tensor, shape: Tensor, **_: Any) -> Tensor:
    return x.reshape([x.shape[axis] if side == 0 else side for axis, side in enumerate(numbers(shape))])


def cast(x: Tensor, *, to: int) -> Tensor:
    kind = helper.tensor_dtype_to_np_dtype(to).kind
    return x.to({"f": torch.float64, "b": torch.bool}.get(kind, torch.int64))


def unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    for axis in sorted(numbers(axes)):
        x = x.unsqueeze(axis)
    return x


def filled(shape: Tensor, *, value: Any = None) -> Tensor:
    one = torch.zeros(1, dtype=torch.float64) if value is None else to_float64(numpy_helper.to_array(value))
    return one.expand(numbers(shape)).clone()


OPERATORS: Mapping[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalise,
    "Cast": cast,
    "Concat": lambda *parts, axis: torch.cat(parts, axis),
    "Constant": lambda *, value: to_float64(numpy_helper.to_array(value)),
    "ConstantOfShape": filled,
    "Conv": convolve,
    "Div": torch.div,
    "Gather": lambda x, where, axis=0: x.index_select(axis, where.reshape(-1)).reshape(
        x.shape[:axis] + where.shape + x.shape[axis + 1 :]
    ),
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: (alpha * x + beta).clamp(0, 1),
    "HardSwish": lambda x: x * (x / 6 + 0.5).clamp(0, 1),
    "Identity": lambda x: x,
    "MatMul": torch.matmul,
    "MaxPool": max_pool,
    "Mul": torch.mul,
    "Pad": pad,
    "ReduceMean": lambda x, axes, keepdims=1: x.mean(tuple(axes), keepdim=bool(keepdims)),
    "Reshape": reshape,
    "Shape": lambda x: torch.tensor(x.shape),
    "Slice": cut_out,
    "Softmax": lambda x, axis=-1: x.softmax(axis),
    "Sub": torch.sub,
    "Transpose": lambda x, perm: x.permute(perm),
    "Unsqueeze": unsqueeze,
}
