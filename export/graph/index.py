"""An index over an ONNX graph: who makes a tensor, who reads it, its shape, and its value if constant."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper

from camrt.export.budget import allowed_memory, check_deadline, with_deadline
from camrt.export.graph.folding_cost import is_cheap
from camrt.export.graph.held_weights import held_weight, tensor_values
from camrt.export.graph.shape_inference import infer_shapes, propagate_values, set_shape, static_shape
from camrt.export.graph.size_tensors import BATCH, is_size_tensor
from camrt.export.graph.traversal import node_subgraphs

__all__ = [
    "Graph",
    "ShapeObserver",
    "attribute",
    "find_dependents",
    "has_open_size",
    "has_trailing_ones",
    "names_read",
    "opset",
    "set_shape",
    "static_shape",
]

Array = npt.NDArray[Any]
# A model, the shape of its input, tensors with their element types where known -> their shapes and types
ShapeObserver = Callable[
    [onnx.ModelProto, tuple[int, ...], Mapping[str, int | None]], dict[str, tuple[tuple[int, ...], int]]
]

# Constants are never folded to more than this in all while analysing, nor to a quarter of what a call may
# take (what makes larger ones is left alone).
FOLDING_LIMIT_BYTES = 1 << 31
# Runs to find unknown shapes, the last one for all that are left.
MOST_OBSERVATIONS = 4
# What is computed from the batch size is followed up to so many numbers, and tried at these sizes.
MAX_BATCH_FREE_VALUES = 64
TRIED_BATCH_SIZES = (1, 7, 96)


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute, or `default` when it is not set."""
    for item in node.attribute:
        if item.name == name:
            value = helper.get_attribute_value(item)
            return value.decode() if isinstance(value, bytes) else value
    return default


def names_read(node: NodeProto) -> Iterator[str]:
    """Every tensor a node reads, those its subgraphs take from outside included; checks the deadline."""
    check_deadline()
    yield from (name for name in node.input if name)
    for graph in node_subgraphs(node):
        made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        for inner in graph.node:
            yield from (name for name in names_read(inner) if name not in made)
            made.update(inner.output)
        yield from (value.name for value in graph.output if value.name not in made)


def has_open_size(graph: onnx.GraphProto) -> bool:
    """Whether an input leaves a size behind the batch axis open, as some files do by −1 or 0."""
    return any(axis.dim_value < 1 for item in graph.input for axis in item.type.tensor_type.shape.dim[1:])


def opset(model: onnx.ModelProto) -> int:
    """Version of the default operator set."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


def has_trailing_ones(shape: tuple[int, ...] | None) -> bool:
    """Whether a shape is (N, K, 1, ..., 1) with nothing but ones behind its second axis."""
    return shape is not None and len(shape) >= 2 and all(size == 1 for size in shape[2:])


class DeadlineCheckedNodes(list[NodeProto]):
    """A list of nodes whose iteration checks the deadline."""

    def __iter__(self) -> Iterator[NodeProto]:
        return with_deadline(super().__iter__())


class Graph:
    """An indexed view of a model's graph; the model itself is not changed.

    Args:
        model: A model without local functions whose nodes are in topological order.
        input_shape: Concrete shape given to the only input for shape inference.
        observer: Finds shapes and element types of the named tensors by running the model on an input of a
            given shape; asked only for what inference leaves unknown, and only when `observe` is called.
        inferred: Shapes and types of the same model at that input shape, where they were found before.

    Attributes:
        shapes: Inferred shape of each tensor at that input shape, where it could be inferred.
        types: Inferred element type (`onnx.TensorProto` constant) of each tensor.
        held_weights: The arrays that initializers stand for, see `camrt.export.graph.held_weights`.
        sizes: The tensors that are sizes, see `camrt.export.graph.size_tensors`.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        input_shape: tuple[int, ...],
        observer: ShapeObserver | None = None,
        inferred: tuple[dict[str, tuple[int, ...]], dict[str, int]] | None = None,
    ) -> None:
        self.model = model
        self._observer = observer
        self.nodes: list[NodeProto] = DeadlineCheckedNodes(model.graph.node)
        self.input_name: str = model.graph.input[0].name
        self.input_shape = input_shape
        self.initializers: dict[str, TensorProto] = {t.name: t for t in model.graph.initializer}
        self.held_weights = [
            values for tensor in self.initializers.values() if (values := held_weight(tensor)) is not None
        ]
        self.producers: dict[str, int] = {}
        self.consumers: dict[str, list[int]] = defaultdict(list)
        for index, node in enumerate(self.nodes):
            for name in node.output:
                if name:
                    self.producers[name] = index
            for name in dict.fromkeys(names_read(node)):
                self.consumers[name].append(index)
        self.sizes: tuple[str, ...] = tuple(name for name in self.producers if is_size_tensor(name))
        self._constants: dict[str, Array | None] = {}
        self._at_probe: dict[str, Array | None] = {}
        self._held = 0  # bytes of what was computed and is kept
        self._twin: Graph | None = None
        self.shapes, self.types = inferred or infer_shapes(model, input_shape)
        self.dependent = self.downstream(self.input_name)
        self._of_batch = find_dependents([BATCH], self.nodes) if BATCH in self.producers else frozenset[str]()

    def observe(self, end: str) -> bool:
        """Runs the model to find shapes and types that inference left unknown upstream of `end`.

        First what is made of known tensors alone: only the part of the model before it is run, and inference
        mostly knows the rest from there.

        Returns:
            Whether any were found.
        """
        needed = [self.nodes[index] for index in self.upstream_nodes(end)]
        any_found = False
        for round_number in range(MOST_OBSERVATIONS):
            unknown = self._unknown_outputs(needed)
            if not unknown or self._observer is None:
                break
            if round_number < MOST_OBSERVATIONS - 1:
                first = [node for node in needed if not any(name in unknown for name in names_read(node))]
                unknown = self._unknown_outputs(first)
            found = self._observer(self.model, self.input_shape, unknown)
            if not found:
                break
            any_found = True
            for name, (shape, element) in found.items():
                self.shapes[name] = shape
                self.types[name] = element
            propagate_values(self.model, self.shapes, self.types)
        return any_found

    def _unknown_outputs(self, nodes: Iterable[NodeProto]) -> dict[str, int | None]:
        """Tensors made by some nodes whose shapes are not known, with their types where those are."""
        return {
            name: self.types.get(name)
            for node in nodes
            for name in node.output
            if name in self.dependent and name not in self.shapes
        }

    def downstream(self, name: str) -> frozenset[str]:
        """The tensors that depend on a tensor, itself included; see `camrt.export.graph.size_tensors`."""
        return find_dependents([name], self.nodes)

    def size_source(self, size: str) -> str:
        """The tensor that a size (`camrt.export.graph.size_tensors`) is read off."""
        node = self.nodes[self.producers[size]]
        while node.op_type != "Shape":
            node = self.nodes[self.producers[node.input[0]]]
        return str(node.input[0])

    def upstream_nodes(self, name: str, stop: Iterable[str] = ()) -> list[int]:
        """Indices, in order, of the nodes that `name` needs, not going past the tensors in `stop`."""
        barrier = set(stop)
        pending, found = [name], set[int]()
        while pending:
            current = pending.pop()
            if current in barrier or current not in self.producers:
                continue
            index = self.producers[current]
            if index not in found:
                found.add(index)
                pending.extend(names_read(self.nodes[index]))
        return sorted(found)

    def upstream(self, name: str) -> set[str]:
        """The tensors that a tensor is made from, itself included."""
        nodes = (self.nodes[index] for index in self.upstream_nodes(name))
        return {name, *(read for node in nodes for read in names_read(node))}

    def producer(self, name: str) -> NodeProto | None:
        """The node that makes a tensor; None for an input or an initializer."""
        index = self.producers.get(name)
        return None if index is None else self.nodes[index]

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A tensor's inferred shape, or that of the constant it is."""
        if name in self.shapes:
            return self.shapes[name]
        value = self.constant(name)
        return None if value is None else value.shape

    def is_constant(self, name: str) -> bool:
        """Whether a tensor does not depend on the images, their number and sizes aside."""
        return bool(name) and name not in self.dependent

    def constant(self, name: str) -> Array | None:
        """The value of a tensor that does not depend on the input; None when it does, or is too large."""
        if not name or name in self.dependent:
            return None
        for made in self._unknown_before(name, self._constants, self.dependent):
            self._constants[made] = (
                self._evaluate(made, self.constant) if made not in self._of_batch else self._settled(made)
            )
        return self._constants[name]

    def _unknown_before(
        self, name: str, known: Mapping[str, Array | None], barrier: Set[str], ends: str = ""
    ) -> list[str]:
        """The tensors that a tensor is computed from, in order, itself the last, but for those in `known`.

        They are evaluated one by one: a file may have more of them in a row than Python calls within calls.

        Args:
            name: The tensor.
            known: Tensors that are evaluated already.
            barrier: Tensors that have no value.
            ends: Operator whose results need no value of what it reads.
        """
        found = set[str]() if name in known else {name}
        pending = list(found)
        while pending:
            node = self.producer(pending.pop())
            for read in () if node is None or node.op_type == ends else names_read(node):
                if read not in known and read not in found and read not in barrier:
                    found.add(read)
                    pending.append(read)
        return sorted(found, key=lambda made: self.producers.get(made, -1))

    def _settled(self, name: str) -> Array | None:
        """The value of a small tensor that is computed from the batch size, when it is the same for all."""
        nodes = [self.nodes[index] for index in self.upstream_nodes(name, stop=[BATCH])]
        made_of_it = [made for node in nodes for made in node.output if made in self._of_batch]
        shapes = [self.shapes.get(made) for made in made_of_it]
        if any(shape is None or math.prod(shape) > MAX_BATCH_FREE_VALUES for shape in shapes):
            return None
        values = []
        for batch in TRIED_BATCH_SIZES:
            known: dict[str, Array | None] = {BATCH: np.array([batch])}

            def value_of(read: str, known: dict[str, Array | None] = known) -> Array | None:
                return known[read] if read in known else self.constant(read)

            for made in made_of_it:
                known[made] = self._evaluate(made, value_of)
            values.append(known[name])
        first, *others = values
        if first is None or any(other is None or not np.array_equal(first, other) for other in others):
            return None
        return first

    def value_at_probe(self, name: str) -> Array | None:
        """The value of a tensor that depends on sizes alone, at the input shape the graph is indexed at."""
        if name not in self._at_probe:
            for made in self._unknown_before(name, self._at_probe, self.downstream_of_values, "Shape"):
                self._at_probe[made] = self._evaluate_at_probe(made)
        return self._at_probe[name]

    def _evaluate_at_probe(self, name: str) -> Array | None:
        node = self.producer(name)
        if node is not None and node.op_type == "Shape":
            shape = self.shape(node.input[0])
            part = slice(attribute(node, "start", 0), attribute(node, "end"))
            return None if shape is None else np.array(shape[part], np.int64)
        if not name or name in self.downstream_of_values:
            return None
        return self._evaluate(name, self.value_at_probe)

    @cached_property
    def downstream_of_values(self) -> frozenset[str]:
        """The tensors that depend on what the images show, and not only on their number and sizes."""
        return find_dependents([self.input_name], self.nodes, through_sizes=False)

    def at_other_batch(self) -> Graph:
        """The same model indexed at another batch size: an axis that differs runs over images."""
        if self._twin is None:
            batch, *rest = self.input_shape
            self._twin = Graph(self.model, (batch + 2, *rest), self._observer)
        return self._twin

    def _evaluate(self, name: str, value_of: Callable[[str], Array | None]) -> Array | None:
        """The value of a tensor, given those of what its node reads."""
        if name in self.initializers:
            return tensor_values(self.initializers[name])
        node = self.producer(name)
        if node is None:
            return None
        shapes = [self.shapes.get(made) for made in node.output if made]
        if node.op_type != "Constant" and None in shapes:
            return None
        limit = min(FOLDING_LIMIT_BYTES, allowed_memory() // 4)
        made = sum(math.prod(shape) for shape in shapes if shape is not None)
        if 8 * made + self._held > limit:
            return None
        feeds: dict[str, Array] = {}
        for read in dict.fromkeys(names_read(node)):
            value = value_of(read)
            if value is None or value.nbytes > limit:
                return None
            feeds[read] = value
        if 8 * made * window_size(node, feeds) > limit:
            return None
        if not is_cheap(node, feeds, self.shapes.get(name)):
            return None
        check_deadline()
        try:
            value = evaluate_node(self.model, node, feeds)[list(node.output).index(name)]
        except (NotImplementedError, RuntimeError, TypeError, ValueError, KeyError, IndexError):
            return None  # the reference evaluator lacks the operator: the tensor stays opaque
        self._held += value.nbytes
        return value


def find_dependents(
    names: Iterable[str], nodes: Iterable[NodeProto], *, through_sizes: bool = True
) -> frozenset[str]:
    """The tensors that nodes make from those named, which are included; size tensors are made from none.

    Args:
        names: Where to start.
        nodes: The nodes, in order.
        through_sizes: Whether what is made of the shape of a tensor alone (`Shape`, `Size`) counts.
    """
    reached = set(names)
    for node in nodes:
        if not through_sizes and node.op_type in ("Shape", "Size"):
            continue
        if not any(map(is_size_tensor, node.output)) and any(read in reached for read in names_read(node)):
            reached.update(made for made in node.output if made)
    return frozenset(reached)


def window_size(node: NodeProto, feeds: Mapping[str, Array]) -> int:
    """Elements that the reference evaluator holds in memory for each output element (im2col windows)."""
    kernel = math.prod(int(side) for side in attribute(node, "kernel_shape", []))
    if node.op_type in ("Conv", "ConvInteger", "ConvTranspose", "DeformConv", "QLinearConv"):
        place = 3 if node.op_type == "QLinearConv" else 1
        weight = feeds.get(node.input[place]) if len(node.input) > place else None
        return max(kernel, 1 if weight is None else weight[:1].size)
    return kernel


def evaluate_node(model: onnx.ModelProto, node: NodeProto, feeds: dict[str, Array]) -> list[Array]:
    """One node's outputs, by ONNX's own reference evaluator."""
    from onnx.reference import ReferenceEvaluator  # slow to import, and seldom needed

    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "one-node", inputs, outputs)
    single = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of means over nothing
        return [np.asarray(value) for value in ReferenceEvaluator(single).run(None, feeds)]
