"""The layers of an ONNX file that have learned weights, and drawing them anew.

The weights are replaced in the ONNX file's own tensors:

- A layer is a node Conv, ConvTranspose, Gemm, MatMul or a quantised form of one, with weights of its own,
  that an output needs. A bias added directly behind it is the layer's, and so are the scale and shift of a
  normalisation directly behind it; any other normalisation (behind a sum, say) is a layer by itself.
- Weights may pass through Identity, Cast, Transpose, QuantizeLinear and DequantizeLinear on their way; those
  computed in the graph in another way are refused.
- What belongs to no layer stays: embeddings of places and classes, slopes of PRelu, normalisations written in
  elementary operators, the constants of preprocessing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from camrt.errors import InputError, UnsupportedModelError
from camrt.evaluation.checks import check_integer
from camrt.export.graph.index import attribute, names_read
from camrt.export.graph.operators import FLOATING
from camrt.export.graph.traversal import node_label, walk_nodes
from camrt.export.limits import ReadingLimits

__all__ = ["Draw", "Parameter", "WeightLayer", "find_weight_layers", "randomise_layers"]

Array = npt.NDArray[Any]
Draw = Literal["normal", "he", "shuffle"]
Role = Literal["weight", "bias", "scale", "shift", "mean", "variance"]

# Which inputs of a node are what.
LINEAR: dict[str, dict[int, Role]] = {
    "Conv": {1: "weight", 2: "bias"},
    "ConvTranspose": {1: "weight", 2: "bias"},
    "Gemm": {0: "weight", 1: "weight", 2: "bias"},
    "MatMul": {0: "weight", 1: "weight"},
    "ConvInteger": {1: "weight"},
    "MatMulInteger": {0: "weight", 1: "weight"},
    "QLinearConv": {3: "weight", 8: "bias"},
    "QLinearMatMul": {0: "weight", 3: "weight"},
}
NORMALISATIONS: dict[str, dict[int, Role]] = {
    "BatchNormalization": {1: "scale", 2: "shift", 3: "mean", 4: "variance"},
    "InstanceNormalization": {1: "scale", 2: "shift"},
    "GroupNormalization": {1: "scale", 2: "shift"},
    "LayerNormalization": {1: "scale", 2: "shift"},
    "RMSNormalization": {1: "scale"},
}
PASS_THROUGH_OPERATORS = ("Identity", "Cast", "Transpose", "QuantizeLinear", "DequantizeLinear")
UNTRAINED_VALUES: dict[Role, float] = {"bias": 0.0, "scale": 1.0, "shift": 0.0, "mean": 0.0, "variance": 1.0}
"""What an untrained layer has beside its weights."""
MAX_DEPTH = ReadingLimits().max_depth


@dataclass(frozen=True)
class Parameter:
    """A stored tensor of a layer.

    Attributes:
        name: Of the initialiser, or of the constant node's output.
        role: What it is to the layer.
        fan_in: How many inputs each output of a weight sums; 0 for anything but a weight.
    """

    name: str
    role: Role
    fan_in: int = 0


@dataclass(frozen=True)
class WeightLayer:
    """A node with learned weights.

    Attributes:
        name: The node's name, or its output's where it has none.
        operator: Its operator.
        parameters: Its tensors, those of a normalisation that belongs to it included.
    """

    name: str
    operator: str
    parameters: tuple[Parameter, ...]


def find_weight_layers(model: onnx.ModelProto) -> tuple[WeightLayer, ...]:
    """The layers with learned weights that an output needs, from the output to the input.

    Args:
        model: As `read_model` gives it: nodes in topological order, no local functions.

    Raises:
        UnsupportedModelError: Weights that are computed in the graph, sparse, or inside a branch or a loop.
    """
    return tuple(_LayerFinder(model).layers())


def randomise_layers(
    model: onnx.ModelProto, layers: Sequence[WeightLayer], seed: int, draw: Draw = "normal"
) -> onnx.ModelProto:
    """A copy of a model in which some layers' parameters are drawn anew.

    What a tensor becomes depends on the seed and its own name alone, so copies with more layers share what
    was drawn for fewer.

    Args:
        model: The model; it is left as it is.
        layers: Some of its `find_weight_layers`.
        seed: Of the draws, at least 0.
        draw: "normal" draws every parameter from a normal distribution of the tensor's own mean and standard
            deviation, so that one whose values are all equal stays as it is. "he" draws weights of variance
            2 / fan-in around zero (He et al. 2015, arXiv:1502.01852) and sets all else as in an untrained
            layer. "shuffle" puts a tensor's own values in another order. Running statistics of a batch
            normalisation are no parameters: "normal" and "shuffle" leave them.

    Raises:
        InputError: An unknown `draw`, a negative seed, or layers of another model.
        UnsupportedModelError: A quantised tensor, unless they are shuffled.
    """
    if draw not in get_args(Draw):
        raise InputError(f"draw={draw!r} must be one of {', '.join(get_args(Draw))}")
    check_integer("seed", seed, 0)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensors = dict(stored_tensors(copy))
    done = set[str]()  # layers may share a tensor
    for layer in layers:
        for parameter in layer.parameters:
            if parameter.name in done:
                continue
            done.add(parameter.name)
            tensor = tensors.get(parameter.name)
            if tensor is None:
                raise InputError(f"layer {layer.name}: the model stores no tensor {parameter.name}")
            if tensor.data_type not in FLOATING and draw != "shuffle":
                raise UnsupportedModelError(
                    f"layer {layer.name}: {parameter.name} is quantised to "
                    f"{TensorProto.DataType.Name(tensor.data_type)}: only draw='shuffle' can randomise it; "
                    "or take the model as it was before quantisation"
                )
            old = numpy_helper.to_array(tensor)
            new = draw_values(old, parameter, seed, draw)
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(new, old.dtype), tensor.name))
    return copy


def draw_values(old: Array, parameter: Parameter, seed: int, draw: Draw) -> Array:
    """New values for a tensor, of its shape."""
    words = np.frombuffer(hashlib.sha256(parameter.name.encode()).digest(), np.uint32)
    rng = np.random.default_rng([seed, *words.tolist()])
    statistic = parameter.role in ("mean", "variance")
    if draw == "shuffle":
        return old if statistic else rng.permutation(old.ravel()).reshape(old.shape)
    if draw == "he":
        if parameter.role == "weight":
            return rng.normal(0, math.sqrt(2 / parameter.fan_in), old.shape)
        return np.full(old.shape, UNTRAINED_VALUES[parameter.role])
    wide = old.astype(np.float64)
    return old if statistic or not old.size else rng.normal(wide.mean(), wide.std(), old.shape)


class _LayerFinder:
    """Finds a model's layers."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.tensors = dict(stored_tensors(model))
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.outputs = {value.name for value in model.graph.output}
        self.producers = {name: node for node in self.nodes for name in node.output if name}
        self.dependent = {value.name for value in model.graph.input} - set(self.tensors)
        for node in self.nodes:
            if not self.dependent.isdisjoint(names_read(node)):
                self.dependent.update(name for name in node.output if name)

    def layers(self) -> Iterator[WeightLayer]:
        """The layers, from the output to the input."""
        found: list[tuple[NodeProto, list[Parameter]]] = []
        owners: dict[str, list[Parameter]] = {}  # parameters of the layer that a tensor comes straight from
        for node in self.needed_nodes():
            inside = [] if node.op_type in LINEAR else walk_nodes([node], MAX_DEPTH).nodes
            if any(inner.op_type in LINEAR for inner in inside):
                raise UnsupportedModelError(f"{node_label(node)} has layers in a branch or a loop")
            if self.dependent.isdisjoint(node.output):
                continue
            data = next(name for name in names_read(node) if name in self.dependent)
            before = self.producers[data].op_type if data in owners else ""
            if node.op_type in LINEAR:
                own = list(self.parameters(node, LINEAR[node.op_type]))
                if own:
                    owners[node.output[0]] = own
                    found.append((node, own))
            elif node.op_type in NORMALISATIONS:
                own = list(self.parameters(node, NORMALISATIONS[node.op_type]))
                if data in owners:
                    owners[data] += own
                elif own:
                    found.append((node, own))
            elif node.op_type == "Add" and before in LINEAR:
                own = list(self.added_bias(node, data))
                if own:
                    owners[data] += own
                    owners[node.output[0]] = owners[data]
        for node, own in reversed(found):
            yield WeightLayer(node.name or node.output[0], node.op_type, tuple(own))

    def needed_nodes(self) -> list[NodeProto]:
        """The nodes that an output needs, in their order."""
        needed, found = set(self.outputs), []
        for node in reversed(self.nodes):
            if not needed.isdisjoint(node.output):
                needed.update(names_read(node))
                found.append(node)
        return found[::-1]

    def parameters(self, node: NodeProto, roles: dict[int, Role]) -> Iterator[Parameter]:
        """A node's own tensors, by the inputs they come in at."""
        for position, role in roles.items():
            name = node.input[position] if position < len(node.input) else ""
            if name and name not in self.dependent:
                stored, shape = self.source(name, node)
                yield Parameter(stored, role, fan_in(node, position, shape) if role == "weight" else 0)

    def added_bias(self, node: NodeProto, data: str) -> Iterator[Parameter]:
        """The vector that an Add adds to what a layer gave, where it is a stored one."""
        other = next((name for name in node.input if name != data), data)
        if other in self.tensors:
            sizes = [size for size in self.tensors[other].dims if size != 1]
            if len(sizes) == 1:
                yield Parameter(other, "bias")

    def source(self, name: str, node: NodeProto) -> tuple[str, tuple[int, ...]]:
        """Where a node's constant input is stored, and its shape as the node sees it."""
        turns: list[Any] = []
        wanted = name
        while name not in self.tensors:
            made = self.producers.get(name)
            if made is None or made.op_type not in PASS_THROUGH_OPERATORS:
                how = "sparse" if made is None else f"computed in the graph by {made.op_type}"
                raise UnsupportedModelError(
                    f"{node_label(node)}: its weights {wanted} are {how}; fold the model's constants first, "
                    "so that they are stored as they are used"
                )
            if made.op_type == "Transpose":
                turns.append(attribute(made, "perm"))
            name = made.input[0]
        shape = tuple(self.tensors[name].dims)
        for turn in reversed(turns):
            shape = tuple(shape[axis] for axis in turn) if turn else shape[::-1]
        return name, shape


def fan_in(node: NodeProto, position: int, shape: tuple[int, ...]) -> int:
    """How many inputs each output of a layer sums, by the shape of its weights."""
    if node.op_type == "ConvTranspose":
        return shape[0] // int(attribute(node, "group", 1)) * math.prod(shape[2:])
    if "Conv" in node.op_type:
        return math.prod(shape[1:])
    if node.op_type == "Gemm":
        turned = bool(attribute(node, ("transA", "transB")[position], 0))
        return shape[int(turned != (position == 0))]
    return shape[-1] if position == 0 or len(shape) == 1 else shape[-2]


def stored_tensors(model: onnx.ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Initialisers and the values of constant nodes, by the name of the tensor they are."""
    for tensor in model.graph.initializer:
        yield tensor.name, tensor
    for node in model.graph.node:
        if node.op_type == "Constant":
            for item in node.attribute:
                if item.name == "value":
                    yield node.output[0], item.t
