"""An index over an ONNX graph: who makes a tensor, who reads it, its shape, and its value if constant."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from camrt.errors import ModelFileError

__all__ = [
    "BATCH",
    "Graph",
    "Observer",
    "attribute",
    "batch_size_nodes",
    "drop_unread_initializers",
    "ends_with_one",
    "names_read",
    "opset",
    "static_shape",
    "subgraphs",
]

Array = npt.NDArray[Any]
Observer = Callable[[onnx.ModelProto, tuple[int, ...], Sequence[str]], dict[str, tuple[tuple[int, ...], int]]]

# The tensor [N] that computed shapes take the batch size from; it counts as no dependence on the picture.
BATCH = "camrt_batch"
# A constant larger than this is never folded while analysing (its producers are left alone).
FOLDING_LIMIT_BYTES = 1 << 31
# What is computed from the batch size is followed up to so many numbers, and tried at these sizes.
MOST_SETTLED = 64
BATCHES = (1, 7, 96)


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute, or `default` when it is not set."""
    for item in node.attribute:
        if item.name == name:
            value = helper.get_attribute_value(item)
            return value.decode() if isinstance(value, bytes) else value
    return default


def subgraphs(node: NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs a node holds, as If, Loop and Scan do."""
    for item in node.attribute:
        yield from [item.g] if item.type == onnx.AttributeProto.GRAPH else item.graphs


def names_read(node: NodeProto) -> Iterator[str]:
    """Every tensor a node reads, those its subgraphs take from outside included."""
    yield from (name for name in node.input if name)
    for graph in subgraphs(node):
        made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        for inner in graph.node:
            yield from (name for name in names_read(inner) if name not in made)
            made.update(inner.output)
        yield from (value.name for value in graph.output if value.name not in made)


def opset(model: onnx.ModelProto) -> int:
    """Version of the default operator set."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


def static_shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...] | None:
    """A value's declared shape, None for each symbolic axis; None when no rank is declared."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in tensor.shape.dim)


def batch_size_nodes(source: str) -> list[NodeProto]:
    """The nodes that make `BATCH` from a tensor (N, ...)."""
    first = numpy_helper.from_array(np.zeros(1, np.int64))
    return [
        helper.make_node("Shape", [source], ["camrt_sizes"]),
        helper.make_node("Constant", [], ["camrt_first"], value=first),
        helper.make_node("Gather", ["camrt_sizes", "camrt_first"], [BATCH], axis=0),
    ]


def ends_with_one(shape: tuple[int, ...] | None) -> bool:
    """Whether a shape is (N, K, 1, ..., 1) with nothing but ones behind its second axis."""
    return shape is not None and len(shape) >= 2 and all(size == 1 for size in shape[2:])


class Graph:
    """An indexed view of a model's graph; the model itself is not changed.

    Args:
        model: A model without local functions whose nodes are in topological order.
        input_shape: Concrete shape given to the only input for shape inference.
        observer: Finds shapes and element types of the named tensors by running the model on an input of a
            given shape; asked only for what inference leaves unknown, and only when `observe` is called.

    Attributes:
        shapes: Inferred shape of each tensor at that input shape, where it could be inferred.
        types: Inferred element type (`onnx.TensorProto` constant) of each tensor.
    """

    def __init__(
        self, model: onnx.ModelProto, input_shape: tuple[int, ...], observer: Observer | None = None
    ) -> None:
        self.model = model
        self._observer = observer
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.input_name: str = model.graph.input[0].name
        self.input_shape = input_shape
        self.initializers: dict[str, TensorProto] = {t.name: t for t in model.graph.initializer}
        self.producers: dict[str, int] = {}
        self.consumers: dict[str, list[int]] = defaultdict(list)
        for index, node in enumerate(self.nodes):
            for name in node.output:
                if name:
                    self.producers[name] = index
            for name in dict.fromkeys(names_read(node)):
                self.consumers[name].append(index)
        self._constants: dict[str, Array | None] = {}
        self.shapes, self.types = infer(model, input_shape)
        self.dependent = self.downstream(self.input_name)
        self._of_batch = reached_from(BATCH, self.nodes) if BATCH in self.producers else frozenset[str]()

    def observe(self, end: str) -> bool:
        """Learns by running what inference left unknown of the tensors `end` needs; whether anything was."""
        needed = [self.nodes[index] for index in self.upstream_nodes(end)]
        unknown = [
            name
            for node in needed
            for name in node.output
            if name in self.dependent and name not in self.shapes
        ]
        if not unknown or self._observer is None:
            return False
        for name, (shape, element) in self._observer(self.model, self.input_shape, unknown).items():
            self.shapes[name] = shape
            self.types[name] = element
        return any(name in self.shapes for name in unknown)

    def downstream(self, name: str) -> frozenset[str]:
        """The tensors whose value depends on tensor `name`, itself included."""
        return reached_from(name, self.nodes)

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
        """Whether a tensor does not depend on the pictures, their number aside."""
        return bool(name) and name not in self.dependent

    def constant(self, name: str) -> Array | None:
        """The value of a tensor that does not depend on the input; None when it does, or is too large."""
        if not name or name in self.dependent:
            return None
        if name not in self._constants:
            self._constants[name] = (
                self._evaluate(name) if name not in self._of_batch else self._settled(name)
            )
        return self._constants[name]

    def _settled(self, name: str) -> Array | None:
        """The value of a small tensor that is computed from the batch size, when it is the same for all."""
        nodes = [self.nodes[index] for index in self.upstream_nodes(name, stop=[BATCH])]
        made_of_it = [made for node in nodes for made in node.output if made in self._of_batch]
        shapes = [self.shapes.get(made) for made in made_of_it]
        if any(shape is None or math.prod(shape) > MOST_SETTLED for shape in shapes):
            return None
        values = []
        for batch in BATCHES:
            known: dict[str, Array | None] = {BATCH: np.array([batch])}
            for made in made_of_it:
                known[made] = self._evaluate(made, known)
            values.append(known[name])
        first, *others = values
        if first is None or any(other is None or not np.array_equal(first, other) for other in others):
            return None
        return first

    def _evaluate(self, name: str, known: Mapping[str, Array | None] = MappingProxyType({})) -> Array | None:
        """The value of a tensor, given those of some that it is made from."""
        if name in self.initializers:
            return np.asarray(numpy_helper.to_array(self.initializers[name]))
        node = self.producer(name)
        if node is None:
            return None
        feeds: dict[str, Array] = {}
        for read in dict.fromkeys(names_read(node)):
            value = known[read] if read in known else self.constant(read)
            if value is None or value.nbytes > FOLDING_LIMIT_BYTES:
                return None
            feeds[read] = value
        shape = self.shapes.get(name)
        if shape is None and node.op_type != "Constant":
            return None
        if shape is not None and np.prod(shape, dtype=np.float64) * 8 > FOLDING_LIMIT_BYTES:
            return None
        try:
            return evaluate_node(self.model, node, feeds)[list(node.output).index(name)]
        except (NotImplementedError, RuntimeError, TypeError, ValueError, KeyError, IndexError):
            return None  # the reference evaluator lacks the operator: the tensor stays opaque


def reached_from(name: str, nodes: Iterable[NodeProto]) -> frozenset[str]:
    """What nodes make from a tensor's value, itself included; the batch size counts as made from none."""
    reached = {name}
    for node in nodes:
        if BATCH not in node.output and any(read in reached for read in names_read(node)):
            reached.update(made for made in node.output if made)
    return frozenset(reached)


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
    return [np.asarray(value) for value in ReferenceEvaluator(single).run(None, feeds)]


def infer(
    model: onnx.ModelProto, input_shape: tuple[int, ...]
) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shapes and element types of all tensors when the only input has the given concrete shape."""
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(without_large_weights(model))
    graph = skeleton.graph
    del graph.value_info[:]
    set_shape(graph.input[0], input_shape)
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise ModelFileError(
            f"the model's shapes do not fit together for an input of shape {input_shape}: {error}"
        ) from error
    shapes: dict[str, tuple[int, ...]] = {}
    types: dict[str, int] = {}
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        if value.type.tensor_type.elem_type:
            types[value.name] = value.type.tensor_type.elem_type
        shape = static_shape(value)
        if shape is not None and None not in shape:
            shapes[value.name] = tuple(size for size in shape if size is not None)
    for value in model.graph.output:  # what inference does not know, the file may say
        shape = static_shape(value)
        if value.name not in shapes and shape and None not in shape[1:]:
            shapes[value.name] = (input_shape[0], *(size for size in shape[1:] if size is not None))
            types[value.name] = value.type.tensor_type.elem_type
    for tensor in model.graph.initializer:
        shapes[tensor.name] = tuple(tensor.dims)
        types[tensor.name] = tensor.data_type
    return shapes, types


def without_large_weights(model: onnx.ModelProto, keep: int = 512) -> onnx.ModelProto:
    """The model with its initializers of more than `keep` numbers turned into typed inputs.

    It is light enough to copy about.
    """
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= keep:
            graph.initializer.append(tensor)
        else:
            graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    return light


def drop_unread_initializers(model: onnx.ModelProto) -> None:
    """Drops the initializers that nothing reads, where they are: the others' weights are not copied."""
    read = {name for node in model.graph.node for name in names_read(node)}
    read.update(value.name for value in model.graph.output)
    for index in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[index].name not in read:
            del model.graph.initializer[index]


def set_shape(value: onnx.ValueInfoProto, shape: Iterable[int | str]) -> None:
    """Declares a value's shape: a number for a fixed axis, a name for a symbolic one."""
    declared = value.type.tensor_type.shape
    del declared.dim[:]
    for size in shape:
        if isinstance(size, str):
            declared.dim.add(dim_param=size)
        else:
            declared.dim.add(dim_value=size)
