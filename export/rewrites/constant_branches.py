"""Branches that a graph always takes: an `If` whose condition is a constant becomes the nodes of its branch.

Conditions on sizes are constants once the sizes are (`camrt.export.rewrites.batch_axis.share_sizes`). What
stands in a branch is seen by nothing that follows tensors, so that a Squeeze there hides the rest of a head.
"""

from __future__ import annotations

import onnx
from onnx import NodeProto, helper

from camrt.export.budget import with_deadline
from camrt.export.graph.index import Graph, attribute
from camrt.export.rewrites.interface import lift_constants

__all__ = ["inline_constant_branches"]


def inline_constant_branches(model: onnx.ModelProto, graph: Graph) -> bool:
    """Puts the branches that are always taken in the place of their `If`, in place; whether there were any.

    Args:
        model: The model.
        graph: Its index.
    """
    nodes: list[NodeProto] = []
    taken = 0
    for node in with_deadline(model.graph.node):
        condition = graph.constant(node.input[0]) if node.op_type == "If" else None
        if condition is None:
            nodes.append(node)
            continue
        branch = onnx.GraphProto()
        branch.CopyFrom(attribute(node, "then_branch" if condition.reshape(-1)[0] else "else_branch"))
        inner = {tensor.name for tensor in branch.initializer}
        inner.update(name for step in branch.node for name in step.output if name)
        names = {name: f"camrt_branch_{taken}_{name}" for name in inner}
        rename_tensors(branch, names)
        for tensor in branch.initializer:
            tensor.name = names[tensor.name]
        model.graph.initializer.extend(branch.initializer)
        nodes.extend(branch.node)
        for value, output in zip(branch.output, node.output, strict=True):
            nodes.append(helper.make_node("Identity", [names.get(value.name, value.name)], [output]))
        taken += 1
    if taken:
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(copies)
        lift_constants(model)
    return taken > 0


def rename_tensors(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Renames tensors where nodes make and read them, in subgraphs too."""
    for node in with_deadline(graph.node):
        for listed in (node.input, node.output):
            for position, name in enumerate(listed):
                listed[position] = names.get(name, name)
        for item in node.attribute:
            for inner in [item.g] if item.HasField("g") else item.graphs:
                rename_tensors(inner, names)
                for value in inner.output:
                    value.name = names.get(value.name, value.name)
