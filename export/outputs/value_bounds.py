"""Bounds that the numbers of a tensor keep whatever the image, as its last operators give them.

Bounds are followed from a tensor back to operators that bound what they give (Softmax, Sigmoid, Clip, Relu)
and forth again by interval arithmetic (Moore, "Interval Analysis", 1966). An interval may be wider than
what a tensor takes: dependence between operands is not seen, and an operator that is not known here bounds
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from onnx import NodeProto, TensorProto

from camrt.export.graph.index import Graph, attribute
from camrt.export.graph.operators import RESHAPING, preserves_values

__all__ = ["FIXED_RANGES", "Interval", "find_bounds"]

Interval = tuple[float, float]

ANYTHING: Interval = (-math.inf, math.inf)
# Operators followed one behind another: beyond, nothing is said.
MAX_DEPTH = 40
# Numbers of a weight that is looked at: more than the last layers of classifiers have.
MAX_CONSTANT_SIZE = 1 << 24

FIXED_RANGES: dict[str, Interval] = {
    "Erf": (-1.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Hardmax": (0.0, 1.0),
    "LogSoftmax": (-math.inf, 0.0),
    "ReduceL1": (0.0, math.inf),
    "ReduceL2": (0.0, math.inf),
    "ReduceSumSquare": (0.0, math.inf),
    "Sigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Softplus": (0.0, math.inf),
    "Softsign": (-1.0, 1.0),
    "Sin": (-1.0, 1.0),
    "Cos": (-1.0, 1.0),
    "Tanh": (-1.0, 1.0),
}
# Give numbers of their first input, or means of some.
KEEPING = RESHAPING | {
    "Expand", "Gather", "GatherElements", "GatherND", "GlobalAveragePool", "GlobalMaxPool", "MaxPool",
    "QuantizeLinear", "DequantizeLinear", "ReduceMax", "ReduceMean", "ReduceMin", "Slice", "Split", "Tile",
    "TopK",
}  # fmt: skip
JOINING = frozenset({"Concat", "Mean"})


def exp_or_infinity(number: float) -> float:
    """The power of e; infinite where float32 has no number for it."""
    return math.exp(number) if number < 88.0 else math.inf


def multiply_ends(one: float, other: float) -> float:
    """Of two ends of intervals, where nothing times whatever is nothing."""
    return 0.0 if one == 0.0 or other == 0.0 else one * other


def times(one: Interval, other: Interval) -> Interval:
    ends = [multiply_ends(a, b) for a in one for b in other]
    return min(ends), max(ends)


def inverse(one: Interval) -> Interval:
    """1/x; anything where x may be zero, but for its sign."""
    low, high = one
    if low >= 0.0:
        return (1.0 / high if high else math.inf), (1.0 / low if low else math.inf)
    if high <= 0.0:
        below, above = inverse((-high, -low))
        return -above, -below
    return ANYTHING


def plus(one: Interval, other: Interval) -> Interval:
    return one[0] + other[0], one[1] + other[1]


def minus(one: Interval, other: Interval) -> Interval:
    return one[0] - other[1], one[1] - other[0]


COMBINED: dict[str, Callable[[Interval, Interval], Interval]] = {
    "Add": plus,
    "Sum": plus,
    "Sub": minus,
    "Mul": times,
    "Div": lambda one, other: times(one, inverse(other)),
    "Max": lambda one, other: (max(one[0], other[0]), max(one[1], other[1])),
    "Min": lambda one, other: (min(one[0], other[0]), min(one[1], other[1])),
}


def magnitude(one: Interval) -> Interval:
    low, high = one
    ends = (abs(low), abs(high))
    return (0.0 if low <= 0.0 <= high else min(ends)), max(ends)


# f of an interval: monotone, or even.
MAPPED: dict[str, Callable[[Interval], Interval]] = {
    "Abs": magnitude,
    "Exp": lambda one: (exp_or_infinity(one[0]), exp_or_infinity(one[1])),
    "Log": lambda one: (
        math.log(one[0]) if one[0] > 0 else -math.inf,
        math.log(one[1]) if 0 < one[1] < math.inf else math.inf,
    ),
    "Neg": lambda one: (-one[1], -one[0]),
    "Reciprocal": inverse,
    "Sqrt": lambda one: (math.sqrt(max(one[0], 0.0)), math.sqrt(max(one[1], 0.0))),
}


def find_bounds(graph: Graph, name: str) -> Interval:
    """Numbers that no element of a tensor is below, and above; infinite ones where nothing is known.

    Args:
        graph: The graph.
        name: The tensor.
    """
    return Bounds(graph).of(name)


class Bounds:
    """Bounds of a graph's tensors, each found once."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known: dict[str, Interval] = {}

    def of(self, name: str, depth: int = 0) -> Interval:
        """See `find_bounds`; `depth` operators were followed so far."""
        if name not in self._known:
            found = ANYTHING if depth > MAX_DEPTH else self._found(name, depth)
            # an interval of NaN says nothing (inf - inf)
            self._known[name] = ANYTHING if any(map(math.isnan, found)) else found
        return self._known[name]

    def _found(self, name: str, depth: int) -> Interval:
        graph = self._graph
        if graph.is_constant(name) and math.prod(graph.shapes.get(name, ())) > MAX_CONSTANT_SIZE:
            return ANYTHING
        value = graph.constant(name)
        if value is not None:
            if not value.size or value.dtype.kind not in "fiub":
                return ANYTHING
            return float(np.min(value)), float(np.max(value))
        node = graph.producer(name)
        if node is None:
            return ANYTHING
        operator = node.op_type
        if operator == "DequantizeLinear" and graph.is_constant(name):
            return self._dequantised(node, depth)
        if operator in FIXED_RANGES:
            return FIXED_RANGES[operator]
        if operator == "Cast" and graph.types.get(node.input[0]) == TensorProto.BOOL:
            return 0.0, 1.0
        if operator == "Clip":
            return self._clipped(node, depth)
        if operator in ("Gemm", "MatMul"):
            return self._multiplied(node, depth)
        if operator == "Where":
            return hull([self.of(read, depth + 1) for read in node.input[1:]])
        if operator == "ReduceSum":
            return self._added(node, name, depth)
        if operator in ("CumSum", "ReduceProd"):
            return self._accumulated(node, depth)
        if operator == "LpNormalization":
            low, high = self.of(node.input[0], depth + 1)
            return (0.0 if low >= 0.0 else -1.0), (0.0 if high <= 0.0 else 1.0)
        if operator == "Pow":
            return self._raised(node, depth)
        if operator == "Relu":  # what it reads may be all of a network, and bounds nothing
            return 0.0, math.inf
        if operator in MAPPED:
            return MAPPED[operator](self.of(node.input[0], depth + 1))
        if operator in KEEPING or preserves_values(node):
            if operator == "TopK" and name != node.output[0]:
                return 0.0, math.inf
            return self.of(node.input[0], depth + 1)
        if operator == "AveragePool":  # zeros around the image may count
            return hull([self.of(node.input[0], depth + 1), (0.0, 0.0)])
        if operator in JOINING:
            return hull([self.of(read, depth + 1) for read in node.input])
        if operator in COMBINED:
            return self._combined(node, depth)
        return ANYTHING

    def _dequantised(self, node: NodeProto, depth: int) -> Interval:
        """A weight stored in whole numbers q: (q − z)·s."""
        levels, scale = (self.of(read, depth + 1) for read in node.input[:2])
        zero = self.of(node.input[2], depth + 1) if len(node.input) > 2 and node.input[2] else (0.0, 0.0)
        return times(minus(levels, zero), scale)

    def _combined(self, node: NodeProto, depth: int) -> Interval:
        if node.op_type == "Mul" and node.input[0] == node.input[1]:
            return times(*[magnitude(self.of(node.input[0], depth + 1))] * 2)
        found = self.of(node.input[0], depth + 1)
        for read in node.input[1:]:
            if found == ANYTHING and node.op_type not in ("Max", "Min"):
                return ANYTHING
            found = COMBINED[node.op_type](found, self.of(read, depth + 1))
        return found

    def _clipped(self, node: NodeProto, depth: int) -> Interval:
        low, high = self.of(node.input[0], depth + 1)
        for position, (name, choose) in enumerate((("min", max), ("max", min)), start=1):
            stated = attribute(node, name)
            given = node.input[position] if len(node.input) > position else ""
            if stated is None and given:
                ends = self.of(given, depth + 1)
                stated = ends[0] if ends[0] == ends[1] else None
            if stated is not None:
                low, high = choose(low, float(stated)), choose(high, float(stated))
        return low, high

    def _multiplied(self, node: NodeProto, depth: int) -> Interval:
        """A product of matrices: of non-negative numbers it is so; by a constant it is bounded by columns."""
        graph = self._graph
        first, second = (self.of(read, depth + 1) for read in node.input[:2])
        if ANYTHING in (first, second) or attribute(node, "transA", 0):
            return ANYTHING
        weight = graph.constant(node.input[1])
        if weight is not None and weight.ndim == 2:
            rows = 1 if attribute(node, "transB", 0) else 0
            factor = float(attribute(node, "alpha", 1.0))
            up = (factor * weight).clip(0.0, None).sum(axis=rows, dtype=np.float64)
            down = (-factor * weight).clip(0.0, None).sum(axis=rows, dtype=np.float64)
            low, high = first
            found = (
                min(multiply_ends(u, low) - multiply_ends(d, high) for u, d in zip(up, down, strict=True)),
                max(multiply_ends(u, high) - multiply_ends(d, low) for u, d in zip(up, down, strict=True)),
            )
        elif min(first[0], second[0]) >= 0.0 and attribute(node, "alpha", 1.0) >= 0.0:
            found = (0.0, math.inf)
        else:
            return ANYTHING
        if node.op_type == "Gemm" and len(node.input) > 2 and node.input[2]:
            beta = float(attribute(node, "beta", 1.0))
            return plus(found, times((beta, beta), self.of(node.input[2], depth + 1)))
        return found

    def _added(self, node: NodeProto, name: str, depth: int) -> Interval:
        low, high = self.of(node.input[0], depth + 1)
        before, after = self._graph.shape(node.input[0]), self._graph.shape(name)
        if before is None or after is None:
            return (0.0 if low >= 0.0 else -math.inf), (0.0 if high <= 0.0 else math.inf)
        count = float(math.prod(before) // max(math.prod(after), 1))
        return multiply_ends(count, low), multiply_ends(count, high)

    def _accumulated(self, node: NodeProto, depth: int) -> Interval:
        """Sums of some numbers, and products of some, of which it is not said how many there are."""
        low, high = self.of(node.input[0], depth + 1)
        if node.op_type == "CumSum":
            return (0.0 if low >= 0.0 else -math.inf), (0.0 if high <= 0.0 else math.inf)
        if low >= 0.0:
            return 0.0, (high if high <= 1.0 else math.inf)
        return (-1.0, 1.0) if max(-low, high) <= 1.0 else ANYTHING

    def _raised(self, node: NodeProto, depth: int) -> Interval:
        base, power = self.of(node.input[0], depth + 1), self._graph.constant(node.input[1])
        if power is None or power.size != 1:
            return (0.0, math.inf) if base[0] >= 0.0 else ANYTHING
        exponent = float(power.reshape(-1)[0])
        if exponent > 0.0 and (base[0] >= 0.0 or exponent % 2.0 == 0.0):
            low, high = magnitude(base)
            return low**exponent, (high**exponent if high < 1e4 else math.inf)
        return ANYTHING


def hull(intervals: Sequence[Interval]) -> Interval:
    """The smallest interval around several."""
    return min(low for low, _ in intervals), max(high for _, high in intervals)
