"""Operators for which ONNX Runtime ends the process when they are given nothing.

InstanceNormalization reads the first number of each channel, and GRU waits for threads that it never began.
A Slice, or sizes that a file computes, can leave them an axis of no length. Where sizes are known, such a
node is refused; where the size of pictures is open, it is given its input by way of nodes that fail first.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from onnx import NodeProto, TensorProto

from camrt.errors import ModelFileError, UnsupportedModelError
from camrt.export.expanding.steps import Expansion, expansion
from camrt.export.graph import size_is_open
from camrt.export.limits import quoted
from camrt.export.protos import domain_of, node_label, node_subgraphs

__all__ = ["NOT_OF_NOTHING", "refuse_nothing"]

NOT_OF_NOTHING = ("GRU", "InstanceNormalization")


@expansion(*NOT_OF_NOTHING, domain="")
def _not_of_nothing(step: Expansion) -> None:
    """The operator, whose input has no axis of no length.

    Raises:
        ModelFileError: It has one whatever the picture.
    """
    given = step.input(0)
    sizes = step.sizes(given)
    if not size_is_open(step.into.graph) and sizes is not None and None not in sizes:
        if 0 in sizes:
            raise ModelFileError(
                f"{node_label(step.node)} is given nothing: {quoted(given)} has shape {tuple(sizes)}"
            )
        return
    shape = step.add("Shape", given)
    count = step.add("ReduceProd", shape, keepdims=0)
    one = step.store(np.array(1, np.int64), "one")
    none = step.add("Cast", step.add("Less", count, one), to=TensorProto.INT64)
    # A list of one number has none at place 1: the runtime refuses that, and the picture with it.
    nought = step.add("Gather", step.store(np.zeros(1, np.int64), "nought"), none)
    held = step.add("Reshape", given, step.add("Add", shape, nought))
    others = [step.input(place) for place in range(1, len(step.node.input))]
    step.many(step.node.op_type, [held, *others], step.node.output, step.node.name, **step.attributes())


def refuse_nothing(nodes: Iterable[NodeProto]) -> None:
    """Refuses such operators in the graphs inside some nodes, where sizes are not followed.

    Args:
        nodes: The nodes.

    Raises:
        UnsupportedModelError: There is one.
    """
    for node in nodes:
        for graph in node_subgraphs(node):
            for inner in graph.node:
                if inner.op_type in NOT_OF_NOTHING and not domain_of(inner.domain):
                    raise UnsupportedModelError(
                        f"{node_label(inner)} is inside another node, where nothing may come to it, for "
                        "which the runtime would end the process"
                    )
            refuse_nothing(graph.node)
