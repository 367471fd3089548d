"""Keeping a graph tidy: constants in one place, names changed everywhere, and nothing that no output needs.

onnx-ir's `RemoveUnusedNodesPass` keeps the same nodes. It was not taken because it works on a copy of the
model in its own form, is written back from that, and importing it imports SymPy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from camrt.export.budget import with_deadline
from camrt.export.graph.index import names_read
from camrt.export.graph.traversal import every_graph

__all__ = [
    "constant_tensor",
    "drop_unread_initializers",
    "drop_unused",
    "lift_constants",
    "rename_tensors",
    "replace_nodes",
    "stored_tensors",
]


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[NodeProto]) -> None:
    """Gives a graph other nodes, in place; they may be some of its own."""
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def drop_unused(model: onnx.ModelProto) -> None:
    """Removes the nodes and initializers that no output of the model needs, in place."""
    nodes = model.graph.node
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    pending = [value.name for value in model.graph.output]
    needed = set[int]()
    while pending:
        index = makers.get(pending.pop())
        if index is not None and index not in needed:
            needed.add(index)
            pending.extend(names_read(nodes[index]))
    if len(needed) < len(nodes):
        replace_nodes(model.graph, [nodes[index] for index in sorted(needed)])
    drop_unread_initializers(model)


def drop_unread_initializers(model: onnx.ModelProto) -> None:
    """Removes the initializers that nothing reads, in place: the weights of the others are not copied."""
    read = {name for node in model.graph.node for name in names_read(node)}
    read.update(value.name for value in model.graph.output)
    for index in with_deadline(reversed(range(len(model.graph.initializer)))):
        if model.graph.initializer[index].name not in read:
            del model.graph.initializer[index]


def rename_tensors(graph: onnx.GraphProto, rename: Callable[[str], str]) -> None:
    """Renames tensors wherever a graph and its subgraphs name them, in place.

    Args:
        graph: The graph.
        rename: From a tensor's name to the one it gets.
    """
    for part in every_graph(graph):
        for node in with_deadline(part.node):
            for names in (node.input, node.output):
                for position, name in enumerate(names):
                    if (other := rename(name)) != name:
                        names[position] = other
        sparse = [tensor.values for tensor in part.sparse_initializer]
        for value in [*part.input, *part.output, *part.value_info, *part.initializer, *sparse]:
            if (other := rename(value.name)) != value.name:
                value.name = other


def lift_constants(model: onnx.ModelProto) -> None:
    """Turns `Constant` nodes of the main graph into initializers, in place."""
    kept = []
    for node in with_deadline(model.graph.node):
        tensor = constant_tensor(node) if node.op_type == "Constant" else None
        if tensor is None:
            kept.append(node)
        else:
            model.graph.initializer.append(tensor)
            model.graph.initializer[-1].name = node.output[0]
    if len(kept) != len(model.graph.node):
        replace_nodes(model.graph, kept)
    model.ir_version = max(model.ir_version, 4)  # initializers need not be inputs


def constant_tensor(node: NodeProto) -> TensorProto | None:
    """The tensor of a `Constant` node in any of its dense spellings: part of the node, or made of numbers."""
    for item in node.attribute:
        if item.name == "value":
            stored: TensorProto = item.t
            return stored
        if item.name in ("value_float", "value_floats"):
            return numpy_helper.from_array(np.asarray(helper.get_attribute_value(item), np.float32))
        if item.name in ("value_int", "value_ints"):
            return numpy_helper.from_array(np.asarray(helper.get_attribute_value(item), np.int64))
    return None


def stored_tensors(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    """The dense tensors that a graph stores, by name: initializers, and those of `Constant` nodes."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in with_deadline(graph.node):
        tensor = constant_tensor(node) if node.op_type == "Constant" else None
        if tensor is not None:
            found[node.output[0]] = tensor
    return found
