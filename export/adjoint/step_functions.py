"""Operators whose derivative is zero, and roundings that a gradient passes all the same.

A step function has derivative zero wherever it has one. On its own way such an operator therefore ends the
gradient; what runs beside it does not notice (sign(b)·√|b| has the derivative of √|b| times sign(b)).

Two forms are read as quantisation instead, through which gradients go by the straight-through rule of
`camrt.export.adjoint.rules.quantisation`:

1. a rounding between a scaling and the same scaling back, s·round(x/s), with shifts and bounds in between:
   a quantiser and its dequantiser in arithmetic. The rounding counts as the identity, and bounds hold for
   what was not rounded yet;
2. x + (q(x) − x) with q(x) made from x by step functions only. As written it is q(x), but nobody would write
   it so: it is how the straight-through estimator is written in training code, with the difference held
   constant, and a file does not keep that. The difference passes nothing, so the whole has x's derivative.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from onnx import NodeProto, TensorProto

from camrt.export.graph.index import Graph, attribute, names_read
from camrt.export.graph.operators import FLOATING

__all__ = [
    "STEP_FUNCTIONS",
    "find_quantiser",
    "find_straight_through",
    "is_detached_difference",
    "is_quantiser",
    "is_step_function",
]

ROUNDINGS = frozenset({"Round", "Floor", "Ceil"})
# Step functions, whole numbers, and truth values of what they read.
STEP_FUNCTIONS = ROUNDINGS | {
    "Sign", "Hardmax", "OneHot", "ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "And", "Or", "Xor", "Not", "IsNaN", "IsInf", "NonZero", "Shape", "Size", "EyeLike",
    "RandomNormalLike", "RandomUniformLike", "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseOr",
    "BitwiseXor", "BitwiseNot",
}  # fmt: skip
# What stands between a rounding and its two scalings.
SHIFTS = frozenset({"Add", "Sub", "Clip", "Min", "Max", "Cast", "Identity"})
SAME_SCALE = 1e-3  # scales are rounded themselves, to float16 at worst


def is_quantiser(graph: Graph, node: NodeProto) -> bool:
    """Whether a rounding stands between a scaling and the same scaling back."""
    if node.op_type not in ROUNDINGS:
        return False
    before, after = find_scale_before(graph, node), find_scale_after(graph, node)
    if before is None or after is None:
        return False
    try:
        return bool((np.abs(before * after - 1) <= SAME_SCALE).all())
    except ValueError:  # one by channel and the other not: they do not broadcast
        return False


def find_quantiser(graph: Graph, name: str) -> NodeProto | None:
    """The quantising node that made a tensor, but for a shift."""
    current = graph.producer(name)
    while current is not None and not is_quantiser(graph, current):
        inputs = variable_inputs(graph, current)
        if current.op_type not in ("Add", "Sub", "Identity") or len(inputs) != 1:
            return None
        current = graph.producer(inputs[0])
    return current


def find_scale(graph: Graph, node: NodeProto) -> np.ndarray | None:
    """The constant that a node multiplies by."""
    if node.op_type not in ("Mul", "Div"):
        return None
    value = graph.constant(node.input[1])
    if value is None and node.op_type == "Mul":
        value = graph.constant(node.input[0])
    if value is None or value.dtype.kind != "f" or not np.all(value):
        return None
    wide = value.astype(np.float64)
    return 1 / wide if node.op_type == "Div" else wide


def variable_inputs(graph: Graph, node: NodeProto) -> list[str]:
    """The inputs of a node that are not constants."""
    return [name for name in node.input if name and not graph.is_constant(name)]


def find_scale_before(graph: Graph, node: NodeProto) -> np.ndarray | None:
    current = graph.producer(node.input[0])
    while current is not None:
        factor = find_scale(graph, current)
        if factor is not None:
            return factor
        inputs = variable_inputs(graph, current)
        if current.op_type not in SHIFTS or len(inputs) != 1:
            return None
        current = graph.producer(inputs[0])
    return None


def find_scale_after(graph: Graph, node: NodeProto) -> np.ndarray | None:
    current = node
    while True:
        readers = [graph.nodes[index] for index in graph.consumers.get(current.output[0], ())]
        if len(readers) != 1 or len(variable_inputs(graph, readers[0])) != 1:
            return None
        current = readers[0]
        factor = find_scale(graph, current)
        if factor is not None:
            return factor
        if current.op_type not in SHIFTS:
            return None


def is_step_function(graph: Graph, node: NodeProto) -> bool:
    """Whether a node's outputs have derivative zero: a step function, or a cast to whole numbers."""
    if node.op_type in ("Cast", "CastLike"):
        made = attribute(node, "to", graph.types.get(node.output[0]))
        return made not in FLOATING and graph.types.get(node.input[0], TensorProto.FLOAT) in FLOATING
    return node.op_type in STEP_FUNCTIONS


def is_detached_difference(graph: Graph, node: NodeProto) -> bool:
    """Whether a Sub is the q(x) − x (or x − q(x)) of form 2."""
    if node.op_type != "Sub" or not all(name in graph.dependent for name in node.input):
        return False
    readers = [graph.nodes[index] for index in graph.consumers.get(node.output[0], ())]
    if len(readers) != 1 or readers[0].op_type not in ("Add", "Sub"):
        return False
    reader = readers[0]
    others = [name for name in reader.input if name != node.output[0]]
    if len(others) != 1:
        return False
    x = others[0]
    if reader.op_type == "Add":
        rounded = node.input[0] if node.input[1] == x else ""
    else:
        rounded = node.input[1] if node.input[0] == x == reader.input[0] else ""
    return bool(rounded) and rounded != x and is_made_by_steps(graph, x, rounded)


def is_made_by_steps(graph: Graph, x: str, rounded: str) -> bool:
    """Whether `rounded` is made from `x`, and every way there leads through a step function."""
    pending, seen = deque([rounded]), {rounded}
    stepped = False
    while pending:  # back over what is not a step function; behind one the way may lead anywhere
        node = graph.producer(pending.popleft())
        if node is None:
            return False
        if is_step_function(graph, node):
            stepped = stepped or any(x in graph.upstream(name) for name in names_read(node))
            continue
        for name in names_read(node):
            if name == x:
                return False
            if name in graph.dependent and name not in seen:
                seen.add(name)
                pending.append(name)
    return stepped


def find_straight_through(graph: Graph) -> tuple[str, ...]:
    """Names (or first outputs) of the rounding nodes that get a straight-through gradient."""
    return tuple(
        node.name or node.output[0]
        for node in graph.nodes
        if node.output[0] in graph.dependent
        and (is_quantiser(graph, node) or is_detached_difference(graph, node))
    )
