"""Whether a model is whole: every value made once, before it is read, and every tensor as long as it says."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Sequence

import onnx
from onnx import AttributeProto, TensorProto

from camrt.errors import ModelFileError, UnsafeModelError, UnsupportedModelError
from camrt.export.budget import with_deadline
from camrt.export.graph.traversal import LabelledTensor, node_label, node_subgraphs, normalise_domain
from camrt.export.limits import ReadingLimits, check_tensor, claimed_bytes, quote_name

__all__ = [
    "check_graph",
    "check_tensors",
    "clear_duplicate_names",
    "open_empty_dimensions",
    "remove_initializers_from_inputs",
]

_Scope = ChainMap[str, None]

# Numbers that are divided by, and those that sizes are multiplied with: no image is larger.
_DIVISORS = frozenset({"blocksize", "group", "num_groups"})
_WINDOWS = frozenset({"dilations", "kernel_shape", "output_padding", "output_shape", "pads", "strides"})
_LARGEST = (1 << 31) - 1
_COMPLEX = (TensorProto.COMPLEX64, TensorProto.COMPLEX128)
_MOST_AXES = 64  # no axis of any tensor is beyond it, in numpy or in onnxruntime


def remove_initializers_from_inputs(graph: onnx.GraphProto) -> None:
    """Drop from a graph's inputs those that an initializer gives, as files of IR version 3 list them."""
    given = {tensor.name for tensor in graph.initializer}
    given.update(sparse.values.name for sparse in graph.sparse_initializer)
    kept = [item for item in graph.input if item.name not in given]
    if len(kept) < len(graph.input):
        del graph.input[:]
        graph.input.extend(kept)


def open_empty_dimensions(graph: onnx.GraphProto) -> None:
    """Leaves open what a graph declares as -1 or 0 in the shapes of its inputs, outputs and other values.

    Exporters write both for a size that is not fixed; a tensor without elements is no image and no answer.
    """
    for item in [*graph.input, *graph.output, *graph.value_info]:
        if item.type.tensor_type.HasField("shape"):
            for dim in item.type.tensor_type.shape.dim:
                if dim.HasField("dim_value") and dim.dim_value <= 0:
                    dim.ClearField("dim_value")


def clear_duplicate_names(graph: onnx.GraphProto) -> None:
    """Takes the names off nodes that are called as an earlier one is: runtimes refuse what means nothing."""
    taken: set[str] = set()
    for node in with_deadline(graph.node):
        if node.name in taken:
            node.ClearField("name")
        taken.add(node.name)
        for inner in node_subgraphs(node):
            clear_duplicate_names(inner)


def check_graph(graph: onnx.GraphProto, limits: ReadingLimits) -> None:
    """Check the model's graph and its subgraphs, whose nesting is known to be shallow.

    Raises:
        UnsafeModelError: Its subgraphs see more values than the limits allow.
        ModelFileError: A graph without nodes, inputs or outputs; a value that nothing makes, that is made
            twice or that is read before it is made; an attribute that says one type and holds another.
    """
    for part, items in (("nodes", graph.node), ("inputs", graph.input), ("outputs", graph.output)):
        if not items:
            raise ModelFileError(f"has a graph without {part}; it is incomplete: download or export it again")
    _ScopeChecker(limits).check(graph, ChainMap(), "the graph")


def check_tensors(tensors: Iterable[LabelledTensor], limits: ReadingLimits) -> None:
    """Check that every stored tensor is whole and within the limits.

    Raises:
        ModelFileError: Data that does not fit the dimensions.
        UnsafeModelError: A tensor that claims more than the limits allow.
        UnsupportedModelError: Complex numbers.
    """
    for item in with_deadline(tensors):
        check_tensor(item.tensor, item.label, limits)
        if item.tensor.data_type in _COMPLEX:
            raise UnsupportedModelError(f"{item.label} holds complex numbers, which no layer takes")
        if item.sparse is not None:
            claimed_bytes(item.tensor.data_type, item.sparse.dims, item.label, limits)
            stored = list(item.tensor.dims)
            shapes = [stored, [*stored, len(item.sparse.dims)]]
            if len(stored) != 1 or list(item.sparse.indices.dims) not in shapes:
                raise ModelFileError(f"{item.label} do not match their indices")


class _ScopeChecker:
    """Checks a graph and its subgraphs, and counts what those see: inferring shapes copies it for each."""

    def __init__(self, limits: ReadingLimits) -> None:
        self._limits = limits
        self._seen = 0

    def _see(self, made: _Scope) -> None:
        self._seen += sum(len(names) for names in made.maps)
        if self._seen > self._limits.max_values_in_scopes:
            raise UnsafeModelError(
                "has so many graphs inside of nodes, which see so many values, that their shapes would take "
                f"too long to infer: more than {self._limits.max_values_in_scopes} in all"
            )

    def check(self, graph: onnx.GraphProto, outer: _Scope, where: str) -> None:
        own: dict[str, None] = {}
        made = outer.new_child(own)
        stored = [tensor.name for tensor in graph.initializer]
        stored += [sparse.values.name for sparse in graph.sparse_initializer]
        for name in stored:
            if not name:
                raise ModelFileError(f"an initializer of {where} has no name")
            if name in own:
                raise _twice(name, f"an initializer of {where}")
            own[name] = None
        inputs = {item.name for item in graph.input}
        if len(inputs) < len(graph.input) or "" in inputs:
            raise ModelFileError(f"two inputs of {where} have the same name, or one has none")
        own.update(dict.fromkeys(inputs))
        for node in with_deadline(graph.node):
            for name in node.input:
                if name and name not in made:
                    raise ModelFileError(
                        f"{node_label(node)} reads {quote_name(name)}, which {_why_missing(name, graph.node)}"
                    )
            for attribute in node.attribute:
                _check_attribute(attribute, node)
            _check_numbers(node)
            for inner in node_subgraphs(node):
                self._see(made)
                self.check(inner, made, f"a subgraph of {node_label(node)}")
                given = [item.name for item in inner.output]
                inside = {name for each in inner.node for name in each.output}
                if node.op_type == "Scan" and not inside.issuperset(given):  # which runtimes leave unset
                    raise ModelFileError(f"a subgraph of {node_label(node)} gives what no node in it makes")
                if len(set(given)) < len(given):  # runtimes give the second what happens to lie in memory
                    raise ModelFileError(f"a subgraph of {node_label(node)} gives one value twice")
            for name in node.output:
                if name in own:
                    raise _twice(name, f"an output of {node_label(node)}")
                if name:
                    own[name] = None
        for item in graph.output:
            if not item.name or item.name not in made:
                raise ModelFileError(f"output {quote_name(item.name)} of {where} is made by no node")


def _twice(name: str, what: str) -> ModelFileError:
    return ModelFileError(f"{what} is called {quote_name(name)}, as another value is; names must differ")


def _why_missing(name: str, nodes: Sequence[onnx.NodeProto]) -> str:
    if any(name in node.output for node in nodes):
        return "is made later; export the model again"
    return "nothing makes; the file is incomplete: download or export it again"


_HOLDS = {
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.SPARSE_TENSOR: "sparse_tensor",
}


def _check_attribute(attribute: onnx.AttributeProto, node: onnx.NodeProto) -> None:
    problem = ""
    if not attribute.name:
        problem = "has no name"
    elif attribute.ref_attr_name:
        problem = f"refers to {quote_name(attribute.ref_attr_name)}, but is not in a function"
    elif any(attribute.HasField(field) != (attribute.type == kind) for kind, field in _HOLDS.items()):
        problem = "says one type and holds another; export the model again"
    if problem:
        raise ModelFileError(f"attribute {quote_name(attribute.name)} of {node_label(node)} {problem}")


def _check_numbers(node: onnx.NodeProto) -> None:
    """Check the numbers that onnx's shape inference, also inside runtimes, uses without checking them.

    An axis of 2⁶³ − 1 (LayerNormalization), a negative `batch_dims` (GatherND) and a `num_outputs` other than
    the number of outputs (Split) make it read or write outside its memory, or allocate gigabytes. A block of
    2³² pixels (DepthToSpace), whose square is 0 in 64 bits, is divided by, which ends the process.
    """
    if normalise_domain(node.domain) == "com.microsoft":
        return
    for attribute in node.attribute:
        allowed = True
        if attribute.name in ("axis", "batch_axis", "time_axis"):
            allowed = -_MOST_AXES <= attribute.i <= _MOST_AXES
        elif attribute.name == "axes":
            allowed = all(-_MOST_AXES <= axis <= _MOST_AXES for axis in attribute.ints)
        elif attribute.name == "batch_dims":
            allowed = 0 <= attribute.i <= _MOST_AXES
        elif attribute.name in _DIVISORS:
            allowed = 1 <= attribute.i <= _LARGEST
        elif attribute.name in _WINDOWS:
            allowed = all(-_LARGEST <= number <= _LARGEST for number in attribute.ints)
        elif attribute.name == "num_outputs":
            allowed = attribute.i == len(node.output)
        if not allowed:
            value = list(attribute.ints)[:8] or attribute.i
            raise ModelFileError(
                f"attribute {quote_name(attribute.name)} of {node_label(node)} is {value}, out of range"
            )
