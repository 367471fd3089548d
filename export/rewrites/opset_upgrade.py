"""Bringing an older graph to the operator set that the rest of camrt writes for.

What follows adds nodes to a file's graph, some of which older operator sets do not have or spell otherwise
(Slice with computed bounds, Pad, ScatterElements that adds). Between operator sets 9 and 17 few operators
changed what they mean; each of those has a function here that gives the nodes of the newer spelling:

1. attributes that became inputs: Clip, Dropout, Pad, ReduceSum, Slice, Split, Squeeze, TopK, Unsqueeze;
2. names: Upsample became Resize, Scatter became ScatterElements;
3. defaults: Resize without a way to place cells, RoiAlign without a way to place boxes;
4. Softmax, LogSoftmax and Hardmax, which took all axes from one on together;
5. outputs that only training reads: BatchNormalization.

A graph with something that cannot be said in the newer set stays as it is.

onnx's `version_converter` was tried and not taken: it gives other numbers without a word for Resize before
operator set 11 and for Hardmax and Upsample, and holds the weights three times over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from camrt.export.budget import with_deadline
from camrt.export.graph.index import attribute, opset, static_shape
from camrt.export.graph.operators import FLOATING
from camrt.export.graph.shape_inference import without_large_weights
from camrt.export.graph.traversal import every_graph
from camrt.export.graph.upkeep import replace_nodes

__all__ = ["MODERN_OPSET", "upgrade_opset"]

MODERN_OPSET = 17
_IR_VERSION = 8  # that operator set 17 came with


class _NoNewSpellingError(Exception):
    """A node that the newer operator set cannot express."""


@dataclass
class _Upgrade:
    """What is known of a graph while its nodes are rewritten.

    Attributes:
        opset: The operator set the graph is written in.
        values: Declared and inferred types of its tensors, by name.
        constants: Its initializers, by name.
        read: The tensors that something reads.
        nodes: The nodes made for the node at hand.
        initializers: Constants made.
    """

    opset: int
    values: Mapping[str, onnx.ValueInfoProto]
    constants: Mapping[str, TensorProto]
    read: frozenset[str]
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        name = f"camrt_upgraded_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def number(self, value: float, like: str) -> str:
        """A number in the floating-point type of a tensor."""
        known = self.values.get(like)
        element = TensorProto.UNDEFINED if known is None else known.type.tensor_type.elem_type
        if element not in FLOATING:
            raise _NoNewSpellingError
        return self.constant(value, helper.tensor_dtype_to_np_dtype(element))

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        if name in self.constants:
            return tuple(self.constants[name].dims)
        return static_shape(self.values[name]) if name in self.values else None

    def add(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, inputs, outputs, **attributes))


def upgrade_opset(model: onnx.ModelProto) -> bool:
    """Rewrites a model of an operator set before 17 in place for that one.

    Args:
        model: A model without local functions.

    Returns:
        Whether the model is now of operator set 17 or later.
    """
    if opset(model) >= MODERN_OPSET:
        return True
    try:
        inferred = onnx.shape_inference.infer_shapes(without_large_weights(model)).graph
    except Exception:  # onnx raises whatever its C++ throws
        return False  # what reads the model next says what is wrong with it
    state = _Upgrade(
        opset(model),
        {value.name: value for part in every_graph(inferred) for value in _typed(part)},
        {tensor.name: tensor for tensor in model.graph.initializer},
        frozenset(name for part in every_graph(model.graph) for name in _names_read(part)),
    )
    copy = GraphProto()
    copy.node.extend(model.graph.node)
    try:
        for part in reversed([*every_graph(copy)]):  # those inside first: nodes are copied with them
            upgrade_graph(part, state)
    except _NoNewSpellingError:
        return False
    replace_nodes(model.graph, copy.node)
    model.graph.initializer.extend(state.initializers)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = MODERN_OPSET
    model.ir_version = max(model.ir_version, _IR_VERSION)
    return True


def _typed(graph: GraphProto) -> list[onnx.ValueInfoProto]:
    return [*graph.input, *graph.value_info, *graph.output]


def _names_read(graph: GraphProto) -> list[str]:
    return [name for node in graph.node for name in node.input] + [value.name for value in graph.output]


def upgrade_graph(graph: GraphProto, state: _Upgrade) -> None:
    """Gives the nodes of a graph without its subgraphs their newer spelling."""
    made: list[NodeProto] = []
    for node in with_deadline(graph.node):
        first, change = _CHANGES.get(node.op_type, (0, None))
        if change is None or node.domain not in ("", "ai.onnx") or state.opset >= first:
            made.append(node)
            continue
        state.nodes = []
        change(node, state)
        if node.name and state.nodes:
            state.nodes[-1].name = node.name
        made += state.nodes
    replace_nodes(graph, made)


def kept_attributes(node: NodeProto, *moved: str) -> dict[str, Any]:
    """A node's attributes without those that are said otherwise now."""
    return {item.name: helper.get_attribute_value(item) for item in node.attribute if item.name not in moved}


def as_input(name: str) -> Callable[[NodeProto, _Upgrade], None]:
    """Whole numbers in an attribute became the second input."""

    def change(node: NodeProto, state: _Upgrade) -> None:
        numbers = attribute(node, name)
        inputs = [*node.input[:1], *([] if numbers is None else [state.constant(np.atleast_1d(numbers))])]
        if len(node.input) > 1:  # TopK took its k so from operator set 10 on
            inputs = list(node.input)
        state.add(node.op_type, inputs, list(node.output), **kept_attributes(node, name))

    return change


def clip(node: NodeProto, state: _Upgrade) -> None:
    bounds = []
    for name, none in (("min", -np.finfo(np.float32).max), ("max", np.finfo(np.float32).max)):
        bound = attribute(node, name)
        unbound = bound is None or bound == none
        bounds.append("" if unbound else state.number(bound, node.input[0]))
    while bounds and not bounds[-1]:
        bounds.pop()
    state.add("Clip", [node.input[0], *bounds], list(node.output))


def pad(node: NodeProto, state: _Upgrade) -> None:
    value = attribute(node, "value", 0.0)
    inputs = [node.input[0], state.constant(attribute(node, "pads"))]
    if value:
        inputs.append(state.number(value, node.input[0]))
    state.add("Pad", inputs, list(node.output), mode=attribute(node, "mode", "constant"))


def slice_(node: NodeProto, state: _Upgrade) -> None:
    parts = [attribute(node, name) for name in ("starts", "ends", "axes")]
    if parts[2] is None:
        parts[2] = list(range(len(parts[0])))
    state.add("Slice", [node.input[0], *map(state.constant, parts)], list(node.output))


def dropout(node: NodeProto, state: _Upgrade) -> None:
    mask = list(node.output)[1:]
    if any(name in state.read for name in mask):
        raise _NoNewSpellingError  # its type has changed
    state.add("Dropout", [node.input[0]], [node.output[0]])


def batch_normalization(node: NodeProto, state: _Upgrade) -> None:
    if any(name for name in list(node.output)[1:]):
        raise _NoNewSpellingError  # training mode
    state.add(
        "BatchNormalization",
        list(node.input),
        [node.output[0]],
        **kept_attributes(node, "is_test", "spatial"),
    )


def softmax(node: NodeProto, state: _Upgrade) -> None:
    """All axes from one on were one axis: so they are where the others of them have size one."""
    source, made = node.input[0], node.output[0]
    axis = attribute(node, "axis", 1)
    shape = state.shape(source)
    if axis == -1 or (shape is not None and all(size == 1 for size in shape[axis % len(shape) + 1 :])):
        state.add(node.op_type, [source], [made], axis=axis)
        return
    if shape is None:
        raise _NoNewSpellingError
    flat, spread, sizes = (f"camrt_{what}_{made}" for what in ("flat", "softmax", "sizes"))
    state.add("Flatten", [source], [flat], axis=axis % len(shape))
    state.add(node.op_type, [flat], [spread], axis=-1)
    if None in shape[1:]:
        state.add("Shape", [source], [sizes])
    else:
        sizes = state.constant([-1, *shape[1:]])
    state.add("Reshape", [spread, sizes], [made])


def upsample(node: NodeProto, state: _Upgrade) -> None:
    make_resize(state, node, node.input[0], node.input[1], node.output[0], "floor")


def make_resize(state: _Upgrade, node: NodeProto, source: str, scales: str, made: str, rounding: str) -> None:
    """A Resize that places cells as those did that could not say how."""
    state.add(
        "Resize",
        [source, "", scales],
        [made],
        mode=attribute(node, "mode", "nearest"),
        coordinate_transformation_mode="asymmetric",
        nearest_mode=rounding,
    )


def resize(node: NodeProto, state: _Upgrade) -> None:
    if state.opset >= 11:  # only this way of placing cells was dropped
        if attribute(node, "coordinate_transformation_mode") == "tf_half_pixel_for_nn":
            raise _NoNewSpellingError
        state.nodes.append(node)
        return
    source, scales, made = node.input[0], node.input[1], node.output[0]
    if attribute(node, "mode", "nearest") != "nearest":
        make_resize(state, node, source, scales, made, "floor")
        return
    if scales not in state.constants:
        raise _NoNewSpellingError
    factors = numpy_helper.to_array(state.constants[scales])
    # Cells were rounded down along axes that grow, and up along those that shrink: one after the other.
    grown, shrunk = np.maximum(factors, 1), np.minimum(factors, 1)
    between = f"camrt_grown_{made}"
    make_resize(state, node, source, state.constant(grown, np.float32), between, "floor")
    make_resize(state, node, between, state.constant(shrunk, np.float32), made, "ceil")


def roi_align(node: NodeProto, state: _Upgrade) -> None:
    attributes = {"coordinate_transformation_mode": "output_half_pixel", **kept_attributes(node)}
    state.add("RoiAlign", list(node.input), list(node.output), **attributes)


def scatter(node: NodeProto, state: _Upgrade) -> None:
    state.add("ScatterElements", list(node.input), list(node.output), **kept_attributes(node))


# The first operator set with the newer meaning, and how the older one is said there.
_CHANGES: Mapping[str, tuple[int, Callable[[NodeProto, _Upgrade], None]]] = {
    "BatchNormalization": (14, batch_normalization),
    "Clip": (11, clip),
    "Dropout": (12, dropout),
    "Hardmax": (13, softmax),
    "LogSoftmax": (13, softmax),
    "Pad": (11, pad),
    "ReduceSum": (13, as_input("axes")),
    "Resize": (13, resize),
    "RoiAlign": (16, roi_align),
    "Scatter": (11, scatter),
    "Slice": (10, slice_),
    "Softmax": (13, softmax),
    "Split": (13, as_input("split")),
    "Squeeze": (13, as_input("axes")),
    "TopK": (10, as_input("k")),
    "Unsqueeze": (13, as_input("axes")),
    "Upsample": (10, upsample),
}
