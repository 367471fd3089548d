"""Operators that draw random numbers, and operators that take the images of a batch together."""

from __future__ import annotations

from onnx import NodeProto

from camrt.export.graph.index import Graph, attribute
from camrt.export.graph.traversal import every_graph

__all__ = ["find_cross_batch_nodes", "find_random_nodes"]

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


def find_random_nodes(graph: Graph) -> tuple[str, ...]:
    """The nodes that draw random numbers, each as operator and name."""
    return tuple(
        describe_node(node)
        for part in every_graph(graph.model.graph)
        for node in part.node
        if node.op_type in RANDOM or (node.op_type == "Dropout" and is_training_dropout(graph, node))
    )


def find_cross_batch_nodes(graph: Graph) -> tuple[str, ...]:
    """The nodes that are defined over the whole batch, each as operator and name.

    `DynamicQuantizeLinear` takes its scale from all its input's numbers, and a batch normalisation in
    training mode its mean and variance.
    """
    return tuple(
        describe_node(node)
        for part in every_graph(graph.model.graph)
        for node in part.node
        if (node.op_type == "DynamicQuantizeLinear" and node.input[0] in graph.dependent)
        or (node.op_type == "BatchNormalization" and attribute(node, "training_mode", 0))
    )


def is_training_dropout(graph: Graph, node: NodeProto) -> bool:
    """Whether a dropout drops anything: its third input says so, or is not known."""
    if len(node.input) < 3 or not node.input[2]:
        return False
    value = graph.constant(node.input[2])
    return value is None or bool(value.any())


def describe_node(node: NodeProto) -> str:
    """A node as a reader finds it."""
    return f"{node.op_type} {node.name!r}" if node.name else node.op_type
