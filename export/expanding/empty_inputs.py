"""Operators that crash ONNX Runtime when an input axis has length zero.

InstanceNormalization reads the first number of each channel, and GRU waits for threads that it never began.
A Slice, or sizes that a file computes, can leave them an axis of no length. Where sizes are known, such a
node is refused; where the size of images is open, it is given its input by way of nodes that fail first.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from onnx import NodeProto, TensorProto

from camrt.errors import ModelFileError, UnsupportedModelError
from camrt.export.expanding.registry import Expansion, expansion
from camrt.export.graph.index import has_open_size
from camrt.export.graph.traversal import node_label, node_subgraphs, normalise_domain
from camrt.export.limits import quote_name

__all__ = ["CRASHING_ON_EMPTY", "refuse_empty_inputs"]

CRASHING_ON_EMPTY = ("GRU", "InstanceNormalization")


@expansion(*CRASHING_ON_EMPTY, domain="")
def _checked_for_empty(step: Expansion) -> None:
    """The operator, made to fail instead of crash when an axis of its input has length zero.

    Raises:
        ModelFileError: It has one whatever the image.
    """
    given = step.input(0)
    sizes = step.sizes(given)
    if not has_open_size(step.into.graph) and sizes is not None and None not in sizes:
        if 0 in sizes:
            raise ModelFileError(
                f"{node_label(step.node)} is given nothing: {quote_name(given)} has shape {tuple(sizes)}"
            )
        return
    shape = step.add("Shape", given)
    count = step.add("ReduceProd", shape, keepdims=0)
    one = step.store(np.array(1, np.int64), "one")
    none = step.add("Cast", step.add("Less", count, one), to=TensorProto.INT64)
    # A list of one number has none at place 1: the runtime refuses that, and the image with it.
    nought = step.add("Gather", step.store(np.zeros(1, np.int64), "nought"), none)
    held = step.add("Reshape", given, step.add("Add", shape, nought))
    others = [step.input(place) for place in range(1, len(step.node.input))]
    step.add_many(step.node.op_type, [held, *others], step.node.output, step.node.name, **step.attributes())


def refuse_empty_inputs(nodes: Iterable[NodeProto]) -> None:
    """Refuses these operators in subgraphs, where sizes are not known.

    Args:
        nodes: The nodes.

    Raises:
        UnsupportedModelError: There is one.
    """
    for node in nodes:
        for graph in node_subgraphs(node):
            for inner in graph.node:
                if inner.op_type in CRASHING_ON_EMPTY and not normalise_domain(inner.domain):
                    raise UnsupportedModelError(
                        f"{node_label(inner)} is inside another node, where nothing may come to it, for "
                        "which the runtime would end the process"
                    )
            refuse_empty_inputs(graph.node)
