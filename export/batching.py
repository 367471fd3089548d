"""Opening a graph's batch axis, and taking computed shapes out of it.

The cases, in order:

1. A Reshape whose output shape is known for the probe batch B and starts with B becomes
   `Reshape([-1, rest])`, whether its shape operand was a constant with the batch baked in or was computed
   from `Shape` nodes. What computed it is then read by nothing and is dropped.
2. A `Shape` of a tensor (N, fixed sizes) that is still read is put together from those sizes and one tensor
   that holds the batch size (where pictures are of open size, only what picks N is). Paths of shapes then
   cross no cut: a head takes the batch size from its own input.
3. The fixed batch size in the input's and the output's declarations becomes a name.
4. Anything else that bakes the batch in (Expand, Tile, ConstantOfShape) is left: the caller compares the
   rewritten graph with the original by running both, and keeps the original where they differ.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from camrt.export.graph import (
    BATCH,
    Graph,
    attribute,
    batch_size_nodes,
    drop_unread_initializers,
    names_read,
    set_shape,
)
from camrt.export.input_form import PICTURES
from camrt.export.interface import LOGITS, Interface

__all__ = ["computes_shapes", "open_batch", "share_batch_axis", "share_batch_size", "simplify_reshapes"]


def simplify_reshapes(model: onnx.ModelProto, graph: Graph) -> None:
    """Gives each Reshape that keeps the batch axis in front a constant shape [-1, rest], in place.

    Only valid for the picture size that `graph` was built with: call it when that size is fixed.
    """
    batch = graph.input_shape[0]
    graph.observe(LOGITS)
    changed = False
    for node in model.graph.node:
        shape = reshaped_to(graph, node, batch)
        if shape is None:
            continue
        name = f"camrt_shape_of_{node.output[0]}"
        model.graph.initializer.append(numpy_helper.from_array(np.array([-1, *shape], np.int64), name))
        node.input[1] = name
        changed = True
    if changed:
        drop_unread(model)


def reshaped_to(graph: Graph, node: NodeProto, batch: int) -> tuple[int, ...] | None:
    """The shape behind the batch axis of a Reshape that needs rewriting; None for any other node."""
    if node.op_type != "Reshape":
        return None
    before, after = graph.shape(node.input[0]), graph.shape(node.output[0])
    if before is None or after is None or not after or before[:1] != (batch,) or after[0] != batch:
        return None
    wanted = graph.constant(node.input[1])
    if wanted is not None and wanted.size and wanted.flat[0] in (0, -1) and (wanted[1:] >= 0).all():
        return None  # open already
    if 0 in after:
        return None
    return after[1:]


def computes_shapes(model: onnx.ModelProto) -> bool:
    """Whether a node asks for a tensor's shape."""
    return any(node.op_type == "Shape" for node in model.graph.node)


def share_batch_size(model: onnx.ModelProto, graphs: list[Graph], *, batch_is_fixed: bool = False) -> None:
    """Puts the answer of each `Shape` together from fixed sizes and one tensor with the batch size, in place.

    Only valid for the picture size that the graphs were built with.

    Args:
        model: The model.
        graphs: Its index at one batch size or more: a first axis is the batch axis when it is so in all.
        batch_is_fixed: Whether the batch size is a fixed size like any other.
    """
    nodes: list[NodeProto] = []
    for graph in graphs:
        graph.observe(LOGITS)
    for node in model.graph.node:
        sizes = fixed_sizes(node, graphs, batch_is_fixed)
        if sizes is None:
            nodes.append(node)
            continue
        name = node.output[0] if BATCH not in sizes else f"camrt_sizes_of_{node.input[0]}_{len(nodes)}"
        fixed = [size for size in sizes if size != BATCH]
        model.graph.initializer.append(numpy_helper.from_array(np.array(fixed, np.int64), name))
        if BATCH in sizes:
            nodes.append(helper.make_node("Concat", [BATCH, name], list(node.output), axis=0))
    with_batch_size(model, nodes)


def share_batch_axis(model: onnx.ModelProto, graphs: list[Graph]) -> None:
    """Lets what picks the batch axis out of a `Shape` read the batch size itself, in place.

    What is left of `share_batch_size` when the picture size is open.

    Args:
        model: The model.
        graphs: Its index at two batch sizes or more.
    """
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        made = graphs[0].producer(node.input[0]) if node.op_type == "Gather" else None
        sizes = None if made is None else fixed_sizes(made, graphs, batch_is_fixed=False)
        index = None if sizes is None else graphs[0].constant(node.input[1])
        if sizes is not None and sizes[0] == BATCH and index is not None and not index.any():
            node = onnx.NodeProto.FromString(node.SerializeToString())
            node.input[0] = BATCH
        nodes.append(node)
    with_batch_size(model, nodes)


def with_batch_size(model: onnx.ModelProto, nodes: list[NodeProto]) -> None:
    """Gives the model these nodes, with those that make the batch size in front if they read it."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend([*batch_size_nodes(PICTURES), *copies])
    drop_unread(model)


def fixed_sizes(node: NodeProto, graphs: list[Graph], batch_is_fixed: bool) -> list[int | str] | None:
    """What a `Shape` answers, `BATCH` for the batch axis; None for other nodes, and where it is not known."""
    if node.op_type != "Shape" or node.input[0] not in graphs[0].dependent:
        return None
    shapes = [graph.shapes.get(node.input[0]) for graph in graphs]
    first = shapes[0]
    if not first:
        return None
    for graph, shape in zip(graphs, shapes, strict=True):
        if not batch_is_fixed and (not shape or shape[0] != graph.input_shape[0] or shape[1:] != first[1:]):
            return None
    answer: list[int | str] = [first[0] if batch_is_fixed else BATCH, *first[1:]]
    return answer[attribute(node, "start", 0) : attribute(node, "end")]


def drop_unread(model: onnx.ModelProto) -> None:
    """Removes the nodes and initializers that no output needs."""
    producers = {name: node for node in model.graph.node for name in node.output if name}
    needed: set[int] = set()
    pending = [value.name for value in model.graph.output]
    while pending:
        node = producers.get(pending.pop())
        if node is not None and id(node) not in needed:
            needed.add(id(node))
            pending.extend(names_read(node))
    kept = [node for node in model.graph.node if id(node) in needed]
    if len(kept) != len(model.graph.node):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del model.graph.node[:]
        model.graph.node.extend(copies)
    drop_unread_initializers(model)


def open_batch(model: onnx.ModelProto, interface: Interface) -> None:
    """Names the batch axis of a graph whose Reshapes have been simplified, in place."""
    set_shape(
        model.graph.input[0],
        ["N", interface.channels, interface.height or "height", interface.width or "width"],
    )
    output = next(value for value in model.graph.output if value.name == LOGITS)
    set_shape(output, ["N", interface.num_classes])
    del model.graph.value_info[:]
