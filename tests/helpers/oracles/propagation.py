"""LRP and DeepLIFT of an ONNX graph in float64, node by node, from what each node gives and nothing else.

No gradient is taken. What an input number gave to an output number is what the node answers to it alone, less
what it answers to nothing. A node's relevance is shared out by that; its multipliers are differences of
answers. Only graphs of the operators below are known, one image at a time.

- ε-rule: R_i = Σ_j c_ij/(y_j + ε·sign y_j)·R_j, c_ij what number i gave to y_j.
- z⁺-rule: the same of what is positive of c_ij and of the bias.
- flat rule: the same as if all numbers and weights were one.
- DeepLIFT: c_ij/x_i of a linear node; Δy/Δx of a function of each number; of a product the mean of both
  orders in which its factors can change; of a maximum, what it rose by to the image's largest, what it fell
  by to the reference's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

__all__ = ["NodeByNode"]

Array = npt.NDArray[Any]

MOVES = {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Identity", "Dropout"}
MOVES |= {"Cast", "Slice", "Gather"}
FUNCTIONS = {"Relu", "Sigmoid", "Tanh", "HardSwish", "Clip", "HardSigmoid", "LeakyRelu"}
LAYERS = {"Conv", "Gemm", "MatMul"}
LINEAR = {"Add", "Sub", "GlobalAveragePool", "AveragePool", "ReduceMean", "ReduceSum", "BatchNormalization"}
LINEAR |= LAYERS | {"Mul", "Div", "Neg"}


@dataclass
class NodeByNode:
    """A graph whose nodes are asked one by one.

    Attributes:
        model: The graph; one image in, logits out.
    """

    model: onnx.ModelProto

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.constants = {t.name: wide(numpy_helper.to_array(t)) for t in graph.initializer}
        self.image, self.logits = graph.input[0].name, graph.output[0].name
        self.evaluators: dict[str, ReferenceEvaluator] = {}

    def answer(self, node: onnx.NodeProto, values: Mapping[str, Array], **other: Array) -> Array:
        """A node's first output, some of its inputs replaced."""
        key = node.output[0]
        if key not in self.evaluators:
            names = [name for name in dict.fromkeys(node.input) if name]
            kinds = [helper.np_dtype_to_tensor_dtype(values[name].dtype) for name in names]
            inputs = [
                helper.make_tensor_value_info(name, kind, None)
                for name, kind in zip(names, kinds, strict=True)
            ]
            graph = helper.make_graph([wider(node)], "node", inputs, [onnx.ValueInfoProto(name=key)])
            single = helper.make_model(graph, opset_imports=list(self.model.opset_import))
            self.evaluators[key] = ReferenceEvaluator(single)
        feeds = {name: other.get(name, values[name]) for name in node.input if name}
        return np.asarray(self.evaluators[key].run([key], feeds)[0])

    def run(self, image: Array) -> dict[str, Array]:
        """Every tensor for one image (C, H, W)."""
        values = {**self.constants, self.image: image[None].astype(np.float64)}
        for node in self.model.graph.node:
            values[node.output[0]] = self.answer(node, values)
        return values

    def changing(self) -> set[str]:
        """Names of the tensors that the image changes."""
        found = {self.image}
        for node in self.model.graph.node:
            if any(name in found for name in node.input) and node.op_type != "Shape":
                found.update(node.output)
        return found

    def given(self, node: onnx.NodeProto, name: str, values: Mapping[str, Array], others: set[str]) -> Array:
        """(P, Q) what each number of one input gave to each of the output."""
        nothing = {other: np.zeros_like(values[other]) for other in others}
        empty = self.answer(node, values, **nothing).reshape(-1)
        rows = []
        for index, number in enumerate(values[name].reshape(-1)):
            alone = np.zeros(values[name].size)
            alone[index] = number
            fed = {**nothing, name: alone.reshape(values[name].shape)}
            rows.append(self.answer(node, values, **fed).reshape(-1) - empty)
        return np.array(rows)

    def moved_back(self, node: onnx.NodeProto, name: str, values: Mapping[str, Array], out: Array) -> Array:
        """Numbers of an output that only moved, summed where they came from."""
        changing = self.changing()
        marks = {other: np.zeros_like(values[other]) for other in node.input if other in changing}
        marks[name] = np.arange(1.0, values[name].size + 1).reshape(values[name].shape)
        places = np.round(self.answer(node, values, **marks)).astype(int).reshape(-1)
        summed = np.bincount(places, out.reshape(-1), values[name].size + 1)[1:]
        return summed.reshape(values[name].shape)

    def relevance(self, image: Array, target: int, rule: str, epsilon: float = 1e-9) -> Array:
        """LRP's relevance (C, H, W) of a logit."""
        values, changing = self.run(image), self.changing()
        start = np.zeros_like(values[self.logits])
        start[0, target] = values[self.logits][0, target]
        back: dict[str, Array] = {self.logits: start}
        for node in reversed(self.model.graph.node):
            reads = [name for name in dict.fromkeys(node.input) if name in changing]
            if node.output[0] not in back or not reads:
                continue
            out = back[node.output[0]]
            kind = node.op_type
            if kind == "Mul" and len(reads) == 2:
                gate = next(name for name in reads if self.maker(name) in ("Sigmoid", "HardSigmoid"))
                reads.remove(gate)
            for name in reads:
                if kind in MOVES:
                    share = self.moved_back(node, name, values, out)
                elif kind in FUNCTIONS:
                    share = out
                elif kind in ("MaxPool", "GlobalMaxPool"):
                    whole = values[node.output[0]]
                    whole = whole + epsilon * np.where(whole < 0, -1, 1)
                    share = values[name] * self.winners(values[name], out / whole)
                else:
                    assert kind in LINEAR, kind
                    share = self.shared(node, name, values, set(reads), out, rule, epsilon)
                back[name] = back.get(name, 0.0) + share
        return back[self.image][0]

    def shared(
        self,
        node: onnx.NodeProto,
        name: str,
        values: Mapping[str, Array],
        reads: set[str],
        out: Array,
        rule: str,
        epsilon: float,
    ) -> Array:
        """The relevance that a linear node hands to one of its inputs."""
        layer = node.op_type in LAYERS and node.input[0] == name and len(reads) == 1
        first = not any(maker in LAYERS for maker in self.makers(name))
        flat = rule == "composite" and node.op_type == "Conv" and first
        if flat:
            ones = {name: np.ones_like(values[name]), node.input[1]: np.ones_like(values[node.input[1]])}
            given = self.given(node, name, {**values, **ones}, reads)
            whole = given.sum(axis=0)
        else:
            given = self.given(node, name, values, reads)
            whole = values[node.output[0]].reshape(-1)
            if layer and (rule == "z+" or (rule == "composite" and node.op_type == "Conv")):
                bias = whole - given.sum(axis=0)
                given = np.maximum(given, 0)
                whole = given.sum(axis=0) + np.maximum(bias, 0)
            whole = whole + epsilon * np.where(whole < 0, -1, 1)
        return (given @ (out.reshape(-1) / whole)).reshape(values[name].shape)

    def maker(self, name: str) -> str:
        return next(node.op_type for node in self.model.graph.node if name in node.output)

    def makers(self, name: str) -> list[str]:
        """Operators before a tensor."""
        found, wanted = [], {name}
        for node in reversed(self.model.graph.node):
            if any(made in wanted for made in node.output):
                found.append(node.op_type)
                wanted.update(node.input)
        return found

    def winners(self, values: Array, out: Array) -> Array:
        """Numbers (1, K, 1, 1) in the place of each map's first largest."""
        result = np.zeros_like(values)
        for k, each in enumerate(values[0]):
            result[0, k][np.unravel_index(each.argmax(), each.shape)] = out[0, k].item()
        return result

    def multipliers(self, image: Array, reference: Array, target: int) -> Array:
        """DeepLIFT's multipliers (C, H, W) of a logit."""
        here, there, changing = self.run(image), self.run(reference), self.changing()
        start = np.zeros_like(here[self.logits])
        start[0, target] = 1.0
        back: dict[str, Array] = {self.logits: start}
        for node in reversed(self.model.graph.node):
            reads = [name for name in dict.fromkeys(node.input) if name in changing]
            if node.output[0] not in back or not reads:
                continue
            out, made = back[node.output[0]], node.output[0]
            for name in reads:
                change = here[name] - there[name]
                if node.op_type in MOVES:
                    part = self.moved_back(node, name, here, out)
                elif node.op_type in FUNCTIONS:
                    assert np.all((change == 0) | (np.abs(change) > 1e-9))
                    moved = {name: here[name] + 1e-7}
                    slope = (self.answer(node, here, **moved) - here[made]) / 1e-7
                    ratio = np.divide(here[made] - there[made], change, out=slope, where=change != 0)
                    part = out * ratio
                elif node.op_type in ("MaxPool", "GlobalMaxPool"):
                    top = np.maximum(here[made], there[made])
                    rose = self.winners(here[name], out * (top - there[made]))
                    fell = self.winners(there[name], out * (here[made] - top))
                    still = self.winners(here[name], out)
                    part = np.divide(rose + fell, change, out=still, where=change != 0)
                elif node.op_type == "Mul" and len(reads) == 2:
                    (other,) = set(reads) - {name}
                    mean = (here[other] + there[other]) / 2
                    part = summed_to(out * mean, here[name].shape)
                else:
                    assert node.op_type in LINEAR, node.op_type
                    ones = {**here, name: np.ones_like(here[name])}
                    part = (self.given(node, name, ones, set(reads)) @ out.reshape(-1)).reshape(change.shape)
                back[name] = back.get(name, 0.0) + part
        return back[self.image][0]


def summed_to(values: Array, shape: tuple[int, ...]) -> Array:
    """Values summed over the axes along which a shape has one number."""
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return values.sum(axis=axes, keepdims=True)


def wide(values: Array) -> Array:
    return values.astype(np.float64) if values.dtype.kind == "f" else values


def wider(node: onnx.NodeProto) -> onnx.NodeProto:
    """A node that casts to float64 where it casts to another floating-point type."""
    made = onnx.NodeProto()
    made.CopyFrom(node)
    for item in made.attribute:
        if node.op_type == "Cast" and item.name == "to":
            item.i = onnx.TensorProto.DOUBLE
    return made
