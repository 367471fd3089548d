"""Walking every graph, node and tensor of a model, however deeply nested, without recursion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx
from onnx import AttributeProto

from camrt.errors import UnsafeModelError
from camrt.export.budget import with_deadline
from camrt.export.limits import quote_name

__all__ = [
    "LabelledTensor",
    "WalkResult",
    "every_graph",
    "graph_tensors",
    "node_label",
    "node_subgraphs",
    "normalise_domain",
    "subgraphs_of",
    "walk_nodes",
]


@dataclass(frozen=True)
class LabelledTensor:
    """A stored tensor and what to call it in a message.

    Attributes:
        tensor: The tensor, part of the model it was found in.
        label: What to call it in a message.
        sparse: The sparse tensor that it is the values of; None for any other tensor.
    """

    tensor: onnx.TensorProto
    label: str
    sparse: onnx.SparseTensorProto | None = None


@dataclass(frozen=True)
class WalkResult:
    """What a walk of some nodes found.

    Attributes:
        nodes: Every node, those of subgraphs included.
        tensors: Every tensor stored in an attribute or as an initializer of a subgraph.
    """

    nodes: list[onnx.NodeProto]
    tensors: list[LabelledTensor]


def normalise_domain(domain: str) -> str:
    """An operator set's name, with 'ai.onnx' spelt '' as everywhere else."""
    return "" if domain == "ai.onnx" else domain


def node_label(node: onnx.NodeProto) -> str:
    """What to call a node in a message: its name, or its first output where it has none."""
    name = node.name or next((output for output in node.output if output), "")
    operator = f"{node.domain}.{node.op_type}" if normalise_domain(node.domain) else node.op_type
    return f"node {quote_name(name)} ({operator[:120]})"


def node_subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node's attributes hold, as those of If, Loop and Scan do."""
    return subgraphs_of(node.attribute)


def subgraphs_of(attributes: Iterable[AttributeProto]) -> Iterator[onnx.GraphProto]:
    """The graphs that attributes hold, whatever type they say they have."""
    for attribute in attributes:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def every_graph(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all that its nodes hold, each before those inside it."""
    waiting = [graph]
    while waiting:
        current = waiting.pop()
        yield current
        for node in with_deadline(current.node):
            waiting.extend(node_subgraphs(node))


def _sparse(sparse: onnx.SparseTensorProto, label: str) -> Iterator[LabelledTensor]:
    yield LabelledTensor(sparse.values, f"the values of sparse {label}", sparse)
    yield LabelledTensor(sparse.indices, f"the indices of sparse {label}")


def graph_tensors(graph: onnx.GraphProto) -> Iterator[LabelledTensor]:
    """The initializers of one graph, dense and sparse, without those of its subgraphs."""
    for tensor in with_deadline(graph.initializer):
        yield LabelledTensor(tensor, f"initializer {quote_name(tensor.name)}")
    for sparse in graph.sparse_initializer:
        yield from _sparse(sparse, f"initializer {quote_name(sparse.values.name)}")


def _attribute_tensors(attribute: onnx.AttributeProto, label: str) -> Iterator[LabelledTensor]:
    where = f"attribute {quote_name(attribute.name)} of {label}"
    tensors = [*attribute.tensors, attribute.t] if attribute.HasField("t") else attribute.tensors
    for tensor in tensors:
        yield LabelledTensor(tensor, where)
    sparse_tensors = [*attribute.sparse_tensors]
    if attribute.HasField("sparse_tensor"):
        sparse_tensors.append(attribute.sparse_tensor)
    for sparse in sparse_tensors:
        yield from _sparse(sparse, where)


def _may_hold(attribute: onnx.AttributeProto) -> bool:
    """Whether an attribute holds tensors or graphs, whatever type it says it has."""
    return bool(
        attribute.HasField("t")
        or attribute.HasField("g")
        or attribute.HasField("sparse_tensor")
        or attribute.tensors
        or attribute.graphs
        or attribute.sparse_tensors
    )


def walk_nodes(
    nodes: Iterable[onnx.NodeProto], max_depth: int, defaults: Iterable[onnx.AttributeProto] = ()
) -> WalkResult:
    """Find every node and tensor in some nodes and their subgraphs.

    Args:
        nodes: The nodes of a graph or of a function.
        max_depth: How deeply subgraphs may nest.
        defaults: Attributes outside any node: a function's default values.

    Raises:
        UnsafeModelError: Subgraphs nest more deeply than `max_depth`.
    """
    found = WalkResult([], [])
    waiting: list[tuple[int, Iterable[onnx.NodeProto]]] = [(0, nodes)]

    def visit(attribute: AttributeProto, node: onnx.NodeProto | None, depth: int) -> None:
        if not _may_hold(attribute):
            return
        label = node_label(node) if node is not None else "a function"
        found.tensors.extend(_attribute_tensors(attribute, label))
        for graph in subgraphs_of([attribute]):
            if depth >= max_depth:
                raise UnsafeModelError(f"{label} nests subgraphs more than {max_depth} deep")
            found.tensors.extend(graph_tensors(graph))
            waiting.append((depth + 1, graph.node))

    for attribute in defaults:
        visit(attribute, None, 0)
    while waiting:
        depth, inside = waiting.pop()
        for node in with_deadline(inside):
            found.nodes.append(node)
            for attribute in node.attribute:
                visit(attribute, node, depth)
    return found
