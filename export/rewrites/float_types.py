"""Bringing the floating-point tensors of a graph to one type, wherever its operators take that type.

The cases, in order:

1. A stored tensor is converted. A finite number beyond the type's range becomes the largest that it has (a
   mask's −3.4e38 in float16: −65504), since an infinity is another number; the caller is told which. A single
   number that would vanish (an epsilon) becomes the smallest that does not.
2. An input or output for which the operator does not take the type (ONNX's schemas say so: `Resize`'s scales,
   `Range`, quantisers' scales before opset 19) keeps its own, with a Cast beside it.
3. When the type is a half one, what does not depend on the numbers that are fed, but on constants and shapes
   alone, is computed in the type it had, and bounded and cast where it is read: sizes above 2048 are not all
   numbers of float16. Quantisers keep their type too: the scales of biases are products, which float16 loses.
4. Subgraphs are converted likewise. Inputs and outputs of the graph have the type.

The converters of onnxconverter-common and of ONNX Runtime (`transformers.float16`) were tried and not taken.
They know one direction, float32 to float16. The first makes graphs that do not load of files that have Casts
to float32 or read a Resize's scales elsewhere too; the second computes sizes in float16: 2049 becomes 2048.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper

from camrt.export.budget import with_deadline
from camrt.export.graph.index import names_read
from camrt.export.graph.operators import FLOATING, QUANTISERS
from camrt.export.graph.shape_inference import without_large_weights
from camrt.export.graph.traversal import node_subgraphs, normalise_domain
from camrt.export.graph.upkeep import constant_tensor, rename_tensors, replace_nodes

__all__ = ["cast_floats", "largest_finite", "needs_float32"]

HALF = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_NAMES: dict[int, str] = {
    TensorProto.FLOAT: "tensor(float)",
    TensorProto.DOUBLE: "tensor(double)",
    TensorProto.FLOAT16: "tensor(float16)",
    TensorProto.BFLOAT16: "tensor(bfloat16)",
}
# By type, the largest number and the smallest above zero.
_RANGES: dict[int, tuple[float, float]] = {
    TensorProto.DOUBLE: (float(np.finfo(np.float64).max), float(np.finfo(np.float64).smallest_subnormal)),
    TensorProto.FLOAT: (float(np.finfo(np.float32).max), float(np.finfo(np.float32).smallest_subnormal)),
    TensorProto.FLOAT16: (65504.0, 2.0**-24),
    TensorProto.BFLOAT16: ((2.0 - 2.0**-7) * 2.0**127, 2.0**-133),
}
_NO_DOUBLES = frozenset({"AveragePool", "Conv", "ConvTranspose", "GlobalAveragePool", "LRN"})
# Inputs that schemas let be of a half type, and that say where images lie.
_PLACES = {("Resize", 1)}


def cast_floats(model: onnx.ModelProto, element: int) -> tuple[str, ...]:
    """Rewrites a graph in place so that its floating-point tensors have type `element` where they can.

    A gradient that passes through many layers leaves float16's range long before the logits do: so its graph
    is brought to float32. Runtimes that take the precision from the graph are given one in float16.

    Args:
        model: A graph of its own.
        element: The type (`onnx.TensorProto` constant).

    Returns:
        The names of the stored tensors in which a finite number lay beyond the type's range.
    """
    operators = _Operators(
        element, {normalise_domain(item.domain): item.version for item in model.opset_import}
    )
    fed = {value.name for value in model.graph.input}
    _Scope(model.graph, operators, _inferred(model), fed, None).convert()
    return tuple(dict.fromkeys(operators.clamped))


def needs_float32(graph: onnx.GraphProto, types: Mapping[str, TypeProto]) -> bool:
    """Whether layers of a graph are of a type that runtimes have none for on a CPU: double, or bfloat16.

    Args:
        graph: The graph.
        types: What is known of the types of its tensors.
    """
    for node in with_deadline(graph.node):
        read = {types[name].tensor_type.elem_type for name in node.input if name in types}
        if TensorProto.BFLOAT16 in read and node.op_type != "Cast":
            return True
        if TensorProto.DOUBLE in read and node.op_type in _NO_DOUBLES:
            return True
    return False


def _inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    """The graph with the types of its tensors, where they can be told."""
    light = without_large_weights(model)
    try:
        return onnx.shape_inference.infer_shapes(light).graph
    except Exception:  # onnx raises whatever its C++ throws
        return light.graph


class _Operators:
    """What operators take, by ONNX's schemas, and what holds for a graph and all its subgraphs.

    Args:
        element: The type that floating-point tensors are to have.
        versions: The operator sets.

    Attributes:
        element: That type.
        narrow: Whether it is a half one.
        clamped: Names of stored tensors with numbers beyond its range.
    """

    def __init__(self, element: int, versions: dict[str, int]) -> None:
        self.element = element
        self.narrow = element in HALF
        self.clamped: list[str] = []
        # What takes float16 is written for bfloat16 too: operator sets named that type late.
        self._taken = {_NAMES[element], *((_NAMES[TensorProto.FLOAT16],) if self.narrow else ())}
        self._versions = versions
        self._schemas: dict[tuple[str, str], onnx.defs.OpSchema | None] = {}
        self._made = 0

    def new_name(self) -> str:
        """A name nothing has."""
        self._made += 1
        return f"camrt_float_{self._made}"

    def take(self, node: NodeProto, index: int, *, output: bool = False) -> bool:
        """Whether an operator takes the type as an input, or gives it as an output."""
        if self.narrow and not output and (node.op_type, index) in _PLACES:
            return False
        schema = self._schema(node)
        formal = () if schema is None else (schema.outputs if output else schema.inputs)
        return not formal or bool(self._taken & formal[min(index, len(formal) - 1)].types)

    def _schema(self, node: NodeProto) -> onnx.defs.OpSchema | None:
        key = (node.op_type, normalise_domain(node.domain))
        if key not in self._schemas:
            version = self._versions.get(key[1])
            known = version is not None and onnx.defs.has(key[0], version, key[1])
            self._schemas[key] = (
                onnx.defs.get_schema(key[0], version, key[1]) if known and version is not None else None
            )
        return self._schemas[key]

    def convert(self, tensor: TensorProto) -> None:
        """One stored tensor, in place."""
        if tensor.data_type not in FLOATING or tensor.data_type == self.element:
            return
        values = np.asarray(numpy_helper.to_array(tensor))
        dtype = helper.tensor_dtype_to_np_dtype(self.element)
        most = largest_finite(self.element)
        wide = values.astype(np.float64)
        beyond = np.isfinite(wide) & (np.abs(wide) > most)
        if beyond.any():
            self.clamped.append(tensor.name)
            wide = np.where(beyond, np.copysign(most, wide), wide)
        cast = wide.astype(dtype)
        if wide.size == 1 and wide.any() and not cast.astype(np.float64).any():
            cast = np.copysign(_RANGES[self.element][1], wide).astype(dtype)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(cast).reshape(values.shape), tensor.name))


def largest_finite(element: int) -> float:
    """The largest finite number of a floating-point type (`onnx.TensorProto` constant)."""
    return _RANGES[element][0]


class _Scope:
    """A graph, or a subgraph inside the scope around it.

    Args:
        graph: The graph; rewritten by `convert`.
        operators: What operators take.
        inferred: The same graph with the types that inference found.
        fed: Names of the tensors that depend on the numbers that are fed; added to.
        outer: The scope around it.
    """

    def __init__(
        self,
        graph: onnx.GraphProto,
        operators: _Operators,
        inferred: onnx.GraphProto,
        fed: set[str],
        outer: _Scope | None,
    ) -> None:
        self._graph, self._operators, self._inferred = graph, operators, inferred
        self._fed, self._outer = fed, outer
        values = [*inferred.value_info, *inferred.input, *inferred.output]
        self._before = {value.name: value.type.tensor_type.elem_type for value in values}
        self._now: dict[str, int] = {}  # the floating-point types that made tensors have now
        self._stored: dict[str, TensorProto] = {}
        self._converted: set[str] = set()  # stored tensors that are read in the new type
        self._kept: dict[str, str] = {}  # and in their own, under these names
        self._casts: dict[tuple[str, int], str] = {}
        self._nodes: list[NodeProto] = []

    # ---------------------------------------------------------------- what is known of a tensor

    def _owner(self, name: str) -> _Scope | None:
        """The scope whose stored tensor has that name."""
        scope: _Scope | None = self
        while scope is not None and name not in scope._stored:
            scope = None if name in scope._now else scope._outer
        return scope

    def _type_now(self, name: str) -> int | None:
        """The floating-point type of a tensor that a node makes, or that is fed; None for any other."""
        scope: _Scope | None = self
        while scope is not None and name not in scope._now:
            scope = scope._outer
        return None if scope is None else scope._now[name]

    def _type_before(self, name: str) -> int:
        """The floating-point type that a tensor had."""
        scope: _Scope | None = self
        while scope is not None and name not in scope._before:
            scope = scope._outer
        found = TensorProto.FLOAT if scope is None else scope._before[name]
        return found if found in FLOATING else TensorProto.FLOAT

    def _floats(self, node: NodeProto, name: str) -> bool:
        """Whether a node's output holds floating-point numbers."""
        if self._before.get(name):
            return self._before[name] in FLOATING
        first = node.input[0] if node.input else ""
        return self._type_now(first) is not None

    # ---------------------------------------------------------------- rewriting

    def convert(self) -> None:
        """Rewrites the graph in place."""
        for item in self._graph.input:
            if item.type.tensor_type.elem_type in FLOATING:
                item.type.tensor_type.elem_type = self._operators.element
                self._now[item.name] = self._operators.element
        for sparse in self._graph.sparse_initializer:
            if sparse.values.data_type in FLOATING:
                self._operators.convert(sparse.values)
                self._now[sparse.values.name] = sparse.values.data_type
        constants = [
            constant_tensor(node) if node.op_type == "Constant" else None for node in self._graph.node
        ]
        for node, tensor in zip(self._graph.node, constants, strict=True):
            if tensor is not None:
                self._graph.initializer.append(tensor)
                self._graph.initializer[-1].name = node.output[0]
        self._stored = {t.name: t for t in self._graph.initializer if t.data_type in FLOATING}
        for node, known, tensor in zip(self._graph.node, self._inferred.node, constants, strict=True):
            if tensor is None:
                own = NodeProto()
                own.CopyFrom(node)
                self._rewrite(own, known)
        replace_nodes(self._graph, self._nodes)
        for item in self._graph.output:
            self._end(item)
        self._settle()

    def _end(self, item: onnx.ValueInfoProto) -> None:
        """Gives an output the type."""
        element, owner, now = self._operators.element, self._owner(item.name), self._type_now(item.name)
        if item.type.tensor_type.elem_type in FLOATING:
            item.type.tensor_type.elem_type = element
        if owner is not None:
            owner._converted.add(item.name)
        elif now is not None and now != element:
            source, made = item.name, self._operators.new_name()
            if item.name in self._now:
                source, made = made, item.name
                self._rename({made: source})
            self._graph.node.append(helper.make_node("Cast", [source], [made], to=element))
            item.name = made

    def _settle(self) -> None:
        """Converts the stored tensors that are read in the new type; who reads the old one gets a copy."""
        names: dict[str, str] = {}
        for name, tensor in self._stored.items():
            kept = self._kept.get(name)
            if kept is not None and name not in self._converted:
                names[kept] = name
                continue
            if kept is not None:
                self._graph.initializer.add().CopyFrom(tensor)
                self._graph.initializer[-1].name = kept
            self._operators.convert(tensor)
        self._rename(names)

    def _rename(self, names: Mapping[str, str]) -> None:
        if names:
            rename_tensors(self._graph, lambda name: names.get(name, name))

    def _rewrite(self, node: NodeProto, inferred: NodeProto) -> None:
        operators = self._operators
        inner = list(node_subgraphs(node))
        depends = node.op_type not in ("Shape", "Size") and any(n in self._fed for n in names_read(node))
        if depends:
            self._fed.update(name for name in node.output if name)
        kept = operators.narrow and not inner and (not depends or node.op_type in QUANTISERS)
        for index, name in enumerate(node.input):
            if name:
                stays = kept or not operators.take(node, index)
                node.input[index] = self._read(name, stays)
        if not kept:
            for item in node.attribute:
                if item.name in ("to", "dtype") and item.type == AttributeProto.INT and item.i in FLOATING:
                    item.i = operators.element
                elif item.type == AttributeProto.TENSOR:
                    operators.convert(item.t)
        for graph, known in zip(inner, node_subgraphs(inferred), strict=True):
            self._fed.update(item.name for item in graph.input)
            _Scope(graph, operators, known, self._fed, self).convert()
        for index, name in enumerate(node.output):
            if name and self._floats(node, name):
                stays = kept or not (inner or operators.take(node, index, output=True))
                self._now[name] = self._type_before(name) if stays else operators.element
        self._nodes.append(node)

    def _read(self, name: str, stays: bool) -> str:
        """The name under which a node reads a tensor in the type that it takes."""
        owner = self._owner(name)
        if owner is not None:
            if stays:
                return owner._kept.setdefault(name, self._operators.new_name())
            owner._converted.add(name)
            return name
        now = self._type_now(name)
        wanted = self._type_before(name) if stays else self._operators.element
        return name if now is None or now == wanted else self._cast(name, now, wanted)

    def _cast(self, name: str, now: int, wanted: int) -> str:
        key = (name, wanted)
        if key not in self._casts:
            source = name
            if wanted in HALF:  # made of constants: what may lie beyond the range is known to be one
                for operator, bound in (("Min", largest_finite(wanted)), ("Max", -largest_finite(wanted))):
                    limit = np.array(bound, helper.tensor_dtype_to_np_dtype(now))
                    stored = numpy_helper.from_array(limit, self._operators.new_name())
                    self._graph.initializer.append(stored)
                    made = self._operators.new_name()
                    self._nodes.append(helper.make_node(operator, [source, stored.name], [made]))
                    source = made
            made = self._operators.new_name()
            self._nodes.append(helper.make_node("Cast", [source], [made], to=wanted))
            self._casts[key] = made
        return self._casts[key]
