"""Opening a graph's batch axis, and taking computed shapes out of it.

The cases, in order:

1. A Reshape whose output shape is known for the probe batch B and starts with B becomes
   `Reshape([-1, rest])`, whether its shape operand was a constant with the batch baked in or was computed
   from `Shape` nodes. What computed it is then read by nothing and is dropped.
2. The fixed batch size in the input's and the output's declarations becomes a name.
3. Anything else that bakes the batch in (Expand, Tile, ConstantOfShape) is left: the caller compares the
   rewritten graph with the original by running both, and keeps the original where they differ.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from camrt.export.graph import Graph, names_read, set_shape
from camrt.export.interface import LOGITS, Interface, keep_needed_initializers

__all__ = ["open_batch", "simplify_reshapes"]


def simplify_reshapes(model: onnx.ModelProto, graph: Graph) -> None:
    """Gives each Reshape that keeps the batch axis in front a constant shape [-1, rest], in place.

    Only valid for the picture size that `graph` was built with: call it when that size is fixed.
    """
    batch = graph.input_shape[0]
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
    keep_needed_initializers(model, {name for node in model.graph.node for name in node.input})


def open_batch(model: onnx.ModelProto, interface: Interface) -> None:
    """Names the batch axis of a graph whose Reshapes have been simplified, in place."""
    probe = interface.probe_shape(1)
    set_shape(
        model.graph.input[0],
        ["N", probe[1], interface.height or "height", interface.width or "width"],
    )
    output = next(value for value in model.graph.output if value.name == LOGITS)
    set_shape(output, ["N", interface.num_classes])
    del model.graph.value_info[:]
