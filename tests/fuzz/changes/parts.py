"""What the changes share: parts of a model, and numbers and texts at the edges of what is meant."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

__all__ = [
    "ATTRIBUTES",
    "BINARY",
    "KINDS",
    "OPERATORS",
    "REAL",
    "SMALL",
    "STRINGS",
    "TYPES",
    "WEIGHTS_BESIDE",
    "WHOLE",
    "Change",
    "all_graphs",
    "all_names",
    "all_nodes",
    "all_tensors",
    "array_of",
    "change_value",
    "fill",
    "kind",
    "pick",
    "replace_nodes",
    "some_number",
    "some_tensor",
]

WEIGHTS_BESIDE = "weights.bin"
"""The name of external data that lies beside a mutated file."""

Change = Callable[[ModelProto, random.Random], str | None]
KINDS: dict[str, Change] = {}

WHOLE = (
    0, -1, 1, 2, 3, 4, 5, 7, -2, -3, 8, 16, 64, 1000, 65536, 10**6, 2**31 - 1, 2**31, 2**32,
    2**63 - 1, -(2**63),
)  # fmt: skip
SMALL = (0, -1, 1, 2, 3, 4, 5, -2, -4, 6, 8)
REAL = (0.0, -1.0, 1.0, 1e-45, 3.4e38, float("nan"), float("inf"), float("-inf"), 0.5, -1e30)
TYPES = tuple(range(24))
_OPERATORS = """
    Abs Acos Add And ArgMax AveragePool BatchNormalization BitShift Cast CastLike Ceil Celu Clip
    Compress Concat ConcatFromSequence Constant ConstantOfShape Conv ConvInteger ConvTranspose CumSum
    DFT DepthToSpace DequantizeLinear Det Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp
    Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool
    GlobalMaxPool Greater GridSample GroupNormalization HardSigmoid HardSwish Hardmax Identity If
    InstanceNormalization IsNaN LRN LSTM LayerNormalization LeakyRelu Less Log LogSoftmax Loop
    LpNormalization LpPool MatMul MatMulInteger Max MaxPool MaxRoiPool MaxUnpool Mean
    MeanVarianceNormalization Min Mish Mod Mul Multinomial Neg NonMaxSuppression NonZero Not OneHot
    Optional Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RNN RandomNormal RandomNormalLike
    RandomUniform Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign Round
    Scan Scatter ScatterElements ScatterND Selu SequenceAt SequenceConstruct SequenceInsert Shape Shrink
    Sigmoid Sign Sin Size Slice Softmax SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split
    SplitToSequence Sqrt Squeeze StringNormalizer Sub Sum Tan Tanh TfIdfVectorizer ThresholdedRelu Tile
    TopK Transpose Trilu Unique Unsqueeze Upsample Where Xor
"""
OPERATORS = tuple(_OPERATORS.split())
BINARY = ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Mod", "PRelu", "MatMul", "Equal", "Where")
STRINGS = (
    "", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID", "reflect", "cubic", "é\ud7ff", "x" * 300, "\0",
    "ij,jk->ik",
)  # fmt: skip
_ATTRIBUTES = """
    alpha auto_pad axes axis batch_axis beta bias block_size blocksize ceil_mode count_include_pad
    dilations direction dtype epsilon equation exclusive group hidden_size k keepdims kernel_shape
    largest layout mode num_groups num_outputs output_padding output_shape p pads perm ratio scale shape
    sorted spatial_scale split start end steps storage_order strides to training_mode transA transB
    value value_ints zero zeropoint
"""
ATTRIBUTES = tuple(_ATTRIBUTES.split())


def kind(change: Change) -> Change:
    KINDS[change.__name__.replace("_", "-")] = change
    return change


def all_graphs(model: ModelProto) -> list[GraphProto]:
    """The graph and the graphs inside its nodes."""
    found, waiting = [], [model.graph]
    while waiting:
        graph = waiting.pop()
        found.append(graph)
        for node in graph.node:
            for item in node.attribute:
                waiting += [item.g] if item.HasField("g") else list(item.graphs)
    return found


def all_nodes(model: ModelProto) -> list[NodeProto]:
    nodes = [node for graph in all_graphs(model) for node in graph.node]
    return nodes + [node for function in model.functions for node in function.node]


def all_tensors(model: ModelProto) -> list[TensorProto]:
    found = [tensor for graph in all_graphs(model) for tensor in graph.initializer]
    return found + [item.t for node in all_nodes(model) for item in node.attribute if item.HasField("t")]


def all_names(model: ModelProto) -> list[str]:
    found = [value.name for value in model.graph.input] + [t.name for t in model.graph.initializer]
    return found + [name for node in model.graph.node for name in node.output if name]


def pick(chance: random.Random, items: Any) -> Any:
    """One of some items, or None when there are none."""
    listed = list(items)
    return chance.choice(listed) if listed else None


def some_number(chance: random.Random) -> int:
    return chance.choice(SMALL if chance.random() < 0.6 else WHOLE)


def replace_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    copies = [NodeProto() for _ in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.CopyFrom(node)
    del graph.node[:]
    graph.node.extend(copies)


def change_value(value: onnx.ValueInfoProto, chance: random.Random) -> None:
    """Changes the type or the shape that is declared of a value."""
    how = chance.randrange(7)
    tensor = value.type.tensor_type
    if how == 0:
        tensor.elem_type = chance.choice(TYPES)
    elif how == 1:
        tensor.ClearField("shape")
    elif how == 2:
        value.ClearField("type")
    elif how == 3 and tensor.shape.dim:
        dim = chance.choice(list(tensor.shape.dim))
        dim.Clear()
        if chance.random() < 0.3:
            dim.dim_param = chance.choice(["", "N", "x", "é"])
        else:
            dim.dim_value = some_number(chance)
    elif how == 4 and tensor.shape.dim:
        del tensor.shape.dim[chance.randrange(len(tensor.shape.dim))]
    elif how == 5:
        tensor.shape.dim.add().dim_value = chance.choice([1, some_number(chance)])
    else:
        value.type.Clear()
        value.type.sequence_type.elem_type.tensor_type.elem_type = 1


def some_tensor(chance: random.Random, name: str = "") -> TensorProto:
    shape = [chance.choice((1, 2, 3, 0)) for _ in range(chance.randrange(4))]
    if chance.random() < 0.5:
        return numpy_helper.from_array(np.full(shape, chance.choice(REAL), np.float32), name)
    return numpy_helper.from_array(np.full(shape, some_number(chance), np.int64), name)


def array_of(tensor: TensorProto) -> Any:
    try:
        return numpy_helper.to_array(tensor)
    except Exception:  # an earlier change has broken it
        return None


def fill(tensor: TensorProto, array: Any) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
