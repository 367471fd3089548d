"""Pooling by a power mean, (mean of x^p)^(1/p), and its like: f, a mean over cells, and f undone.

Generalised-mean pooling has f(x) = max(x, ε)^p, log-sum-exp pooling f(x) = exp(r·x). The activation before
the pooling is x, and f(x) a step of it. A bound right behind a layer is its activation, though: exporters
join max(relu(x), ε) to one.
"""

from __future__ import annotations

from onnx import NodeProto

from camrt.export.graph.index import Graph
from camrt.export.graph.operators import RESHAPING, preserves_values

__all__ = ["find_root", "skip_power_mean"]

AVERAGING = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum"})
BOUNDING = frozenset({"Clip", "Max", "Min"})
LAYERS = frozenset({"BatchNormalization", "Conv", "Gemm", "MatMul"})
SCALING = frozenset({"Div", "Mul"})


def skip_power_mean(graph: Graph, name: str) -> str:
    """The tensor x that a power mean pools, when `name` is f(x) or on the way to it; else `name` itself."""
    node = graph.producer(name)
    if node is None or not is_inverted_later(graph, node):
        return name
    source = find_variable_input(graph, node)
    passed = BOUNDING | SCALING if node.op_type == "Exp" else BOUNDING
    while source is not None and (before := graph.producer(source)) is not None and before.op_type in passed:
        further = find_variable_input(graph, before)
        made = None if further is None else graph.producer(further)
        if made is None or (before.op_type in BOUNDING and made.op_type in LAYERS):
            break
        source = further
    return source or name


def find_variable_input(graph: Graph, node: NodeProto) -> str | None:
    """The only input of a node that depends on the image."""
    moving = {read for read in node.input if read and not graph.is_constant(read)}
    return moving.pop() if len(moving) == 1 else None


def is_inverted_later(graph: Graph, node: NodeProto) -> bool:
    """Whether a node is Pow or Exp and, after a mean over the cells, its inverse (root or Log) follows."""
    power = exponent(graph, node)
    if power is None and node.op_type != "Exp":
        return False
    current, pooled = node, False
    while True:
        readers = [graph.nodes[index] for index in graph.consumers.get(current.output[0], ())]
        if len(readers) != 1:
            return False
        current = readers[0]
        if current.op_type in AVERAGING:
            pooled = True
        elif current.op_type not in RESHAPING and not preserves_values(current):
            break
    if power is None:
        return pooled and current.op_type == "Log"
    root = exponent(graph, current)
    return pooled and root is not None and abs(power * root - 1) < 1e-3


def exponent(graph: Graph, node: NodeProto) -> float | None:
    """The one number that a node raises to; None for other nodes."""
    if node.op_type == "Sqrt":
        return 0.5
    if node.op_type == "Mul" and node.input[0] == node.input[1]:
        return 2.0
    value = graph.constant(node.input[1]) if node.op_type == "Pow" else None
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def find_root(graph: Graph, name: str) -> str | None:
    """The operator that takes a root or a logarithm of a tensor; None when nothing does.

    Near zero a root turns a rounding error of 1e-7 into 5e-3, and one of a number that should not be negative
    into NaN: what is left of a sum when most of it is taken out again has to be summed anew.
    """
    for index in graph.consumers.get(name, ()):
        node = graph.nodes[index]
        power = exponent(graph, node)
        if node.op_type == "Log" or (power is not None and not power.is_integer()):
            return node.op_type
        if node.op_type in RESHAPING or preserves_values(node):
            found = find_root(graph, node.output[0])
            if found is not None:
                return found
    return None
