"""What the head analysis knows about each operator."""

from __future__ import annotations

import math

from onnx import NodeProto, TensorProto

from camrt.export.graph.index import Graph, attribute

__all__ = [
    "CHANNEL_MIXING",
    "COMPARING",
    "ELEMENTWISE_BINARY",
    "ELEMENTWISE_UNARY",
    "FLOATING",
    "QUANTISERS",
    "RESHAPING",
    "ROUNDING",
    "is_same_for_every_element",
    "preserves_values",
]

FLOATING = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})
# Move elements about without changing one.
RESHAPING = frozenset({"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})

# f(x) of each number by itself; further inputs, if any, are constants (Clip's bounds, PRelu's slope).
ELEMENTWISE_UNARY = frozenset(
    {
        "Abs", "Celu", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log",
        "Mish", "Neg", "PRelu", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt",
        "Swish", "Tanh", "ThresholdedRelu", "QuickGelu", "FastGelu",
    }
)  # fmt: skip
ELEMENTWISE_BINARY = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum"})
# Compare numbers, or choose between them.
COMPARING = frozenset({"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Where"})
QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
# Give the same for numbers that differ a little, and then something else.
ROUNDING = frozenset({"Ceil", "DynamicQuantizeLinear", "Floor", "QuantizeLinear", "Round", "Sign"})
# Act on each cell of a map by itself, but mix its channels.
CHANNEL_MIXING = frozenset({"Softmax", "LogSoftmax", "Concat", "LpNormalization"})


def preserves_values(node: NodeProto) -> bool:
    """Whether a node's first output is its first input, value for value, in the same shape.

    A cast between floating-point types counts: it only rounds.
    """
    if node.op_type == "Cast":
        return attribute(node, "to") in FLOATING
    if node.op_type in ("AveragePool", "MaxPool"):
        sizes = [*attribute(node, "kernel_shape", [0]), *attribute(node, "strides", [1])]
        return all(size == 1 for size in sizes) and not any(attribute(node, "pads", []))
    return node.op_type in ("Identity", "Dropout")


def is_same_for_every_element(graph: Graph, node: NodeProto) -> bool:
    """Whether each number of a node's answer is made of the number in its place, in every place alike."""
    fixed = [graph.shape(name) for name in node.input if name and graph.is_constant(name)]
    if any(shape is None or math.prod(shape) != 1 for shape in fixed):
        return False
    return preserves_values(node) or node.op_type in ELEMENTWISE_UNARY | ELEMENTWISE_BINARY
