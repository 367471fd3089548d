"""Nodes that only compute shapes, which ONNX Runtime may run on the CPU."""

from __future__ import annotations

import math

import onnx
import onnxruntime as ort

__all__ = ["CPU", "find_cpu_operators", "find_shape_nodes", "name_shape_nodes"]

CPU = "CPUExecutionProvider"
MAX_CONSTANT_SIZE = 256
SIZES = frozenset({"Shape", "Size"})
ARITHMETIC = frozenset({
    "Abs", "Add", "And", "Cast", "Ceil", "Concat", "Div", "Equal", "Floor", "Gather", "Greater",
    "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or",
    "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Slice", "Split", "Sqrt", "Squeeze",
    "Sub", "Unsqueeze", "Where",
})  # fmt: skip


def find_cpu_operators(session: ort.InferenceSession, counts: frozenset[str]) -> list[str]:
    """The operators of a session that the CPU runs, without those that count.

    Args:
        session: It recorded who takes what.
        counts: Names of nodes that count.
    """
    return sorted(
        {
            node.op_type
            for part in session.get_provider_graph_assignment_info()
            if part.ep_name == CPU
            for node in part.get_nodes()
            if node.name not in counts
        }
    )


def name_shape_nodes(model: onnx.ModelProto) -> tuple[bytes, frozenset[str]]:
    """A graph whose nodes that count have names of their own, and those names."""
    numbers = find_shape_nodes(model.graph)
    if not numbers:
        return model.SerializeToString(), frozenset()
    own = onnx.ModelProto()
    own.CopyFrom(model)
    for number in numbers:
        own.graph.node[number].name = f"camrt_count_{number}"
    return own.SerializeToString(), frozenset(f"camrt_count_{number}" for number in numbers)


def find_shape_nodes(graph: onnx.GraphProto) -> tuple[int, ...]:
    """Which nodes compute with nothing but the sizes of tensors and small constants.

    Args:
        graph: Its nodes in topological order.

    Returns:
        Their places among the nodes.
    """
    constants = {
        initializer.name
        for initializer in graph.initializer
        if math.prod(initializer.dims) <= MAX_CONSTANT_SIZE
    }
    sizes: set[str] = set()
    found = []
    for number, node in enumerate(graph.node):
        if node.domain not in ("", "ai.onnx"):
            continue
        read = {name for name in node.input if name}
        if node.op_type == "Constant":
            constants.update(node.output)
        elif node.op_type in SIZES or (
            node.op_type in ARITHMETIC and read & sizes and read <= sizes | constants
        ):
            sizes.update(node.output)
            found.append(number)
    return tuple(found)
