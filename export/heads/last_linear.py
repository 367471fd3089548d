"""The last linear layer of a head, taken off: a logit needs the row of its own class and no other.

    logits = weight · u + bias

A classifier of a thousand classes has a thousand rows there, and the score of a target is one of them,
however many altered activations are run up to u.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from camrt.export.allocation import zeros
from camrt.export.graph.index import Graph
from camrt.export.graph.operators import (
    ELEMENTWISE_BINARY,
    RESHAPING,
    is_same_for_every_element,
    preserves_values,
)
from camrt.export.heads.affine import AffineForms
from camrt.export.heads.cut import find_clean_cuts
from camrt.export.rewrites.interface import LOGITS

__all__ = ["LastLinear", "find_last_linear", "is_one_function", "linear_model"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LastLinear:
    """logits = weight · u + bias.

    Attributes:
        features: The tensor u.
        shape: Of an image's u: (D,), or with further axes of size one.
        weight: (C, D) float32.
        bias: (C,) float32.
    """

    features: str
    shape: tuple[int, ...]
    weight: Array
    bias: Array


def find_last_linear(graph: Graph, start: str) -> LastLinear | None:
    """The linear layer that the logits come from, when it lies behind `start` and everything runs through it.

    Args:
        graph: Index of the standardised model.
        start: The tensor that the head, or what follows its first layer, begins with.
    """
    name = LOGITS
    while (node := graph.producer(name)) is not None:
        moving = [read for read in node.input if read in graph.dependent]
        single = node.op_type in ELEMENTWISE_BINARY and len(moving) == 1
        if not (preserves_values(node) or node.op_type in RESHAPING or single) or not moving:
            break
        name = moving[0]
    if node is None or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    features = node.input[0]
    if features == start or features not in graph.downstream(start) or features not in find_clean_cuts(graph):
        return None
    shape = graph.shape(features) or ()
    if len(shape) < 2 or math.prod(shape[1:]) != max(shape[1:]):
        return None
    nodes = [graph.nodes[index] for index in graph.upstream_nodes(LOGITS, stop=[features])]
    inputs = math.prod(shape[1:])
    form = AffineForms(graph, features, inputs, cells=False).follow(nodes).get(LOGITS)
    if form is None or form.weight is None:
        return None
    bias = zeros(len(form.weight), "bias of a head's last layer") if form.bias is None else form.bias
    return LastLinear(
        features,
        shape[1:],
        np.ascontiguousarray(form.weight, np.float32),
        np.ascontiguousarray(bias, np.float32),
    )


def is_one_function(graph: Graph, start: str, end: str) -> bool:
    """Whether a vector is made of another one number by number, by the same function, as activations do.

    Args:
        graph: Index of the model.
        start: The vector (N, D), or with further axes of size one.
        end: What is made of it.
    """
    nodes = [graph.nodes[index] for index in graph.upstream_nodes(end, stop=[start])]
    shapes = [graph.shape(node.output[0]) or () for node in nodes]
    if any(len(shape) < 2 or math.prod(shape[1:]) != max(shape[1:]) for shape in shapes):
        return False
    return all(
        is_same_for_every_element(graph, node)
        or node.op_type in RESHAPING  # the order is kept: one long axis
        for node in nodes
    )


def linear_model(layer: LastLinear) -> onnx.ModelProto:
    """A graph of its own that is the layer: (N, D) -> (N, C)."""
    made, floating = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    classes, features = layer.weight.shape
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gemm", ["camrt_features", "weight", "bias"], [LOGITS], transB=1)],
        "last_linear",
        [made("camrt_features", floating, ["N", features])],
        [made(LOGITS, floating, ["N", classes])],
        [
            onnx.numpy_helper.from_array(layer.weight, "weight"),
            onnx.numpy_helper.from_array(layer.bias, "bias"),
        ],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
