"""Branches that a graph always takes: an `If` whose condition is a constant becomes the nodes of its branch.

Conditions on sizes are constants once the sizes are (`camrt.export.rewrites.batch_axis.share_sizes`). What
stands in a branch is seen by nothing that follows tensors, so that a Squeeze there hides the rest of a head.
"""

from __future__ import annotations

import onnx
from onnx import NodeProto, helper

from camrt.export.budget import with_deadline
from camrt.export.graph.index import Graph, attribute
from camrt.export.graph.upkeep import lift_constants, rename_tensors, replace_nodes

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
        chosen = attribute(node, "then_branch" if condition.reshape(-1)[0] else "else_branch")
        branch = copy_with_prefix(chosen, f"camrt_branch_{taken}_")
        model.graph.initializer.extend(branch.initializer)
        nodes.extend(branch.node)
        for value, output in zip(branch.output, node.output, strict=True):
            nodes.append(helper.make_node("Identity", [value.name], [output]))
        taken += 1
    if taken:
        replace_nodes(model.graph, nodes)
        lift_constants(model)
    return taken > 0


def copy_with_prefix(graph: onnx.GraphProto, prefix: str) -> onnx.GraphProto:
    """A copy of a subgraph, the tensors made in it renamed; those it reads from outside keep their names."""
    copy = onnx.GraphProto()
    copy.CopyFrom(graph)
    own = {tensor.name for tensor in copy.initializer}
    own.update(name for node in copy.node for name in node.output if name)
    rename_tensors(copy, lambda name: f"{prefix}{name}" if name in own else name)
    return copy
