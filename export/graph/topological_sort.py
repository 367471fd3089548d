"""Putting the nodes of a graph in topological order.

ONNX asks for that order, some tools write nodes behind those that read them (converters to float16 append
their Casts), and runtimes sort before they run. The order of a file is kept where it can be: of the nodes
whose inputs are made, the one that stands first in the file comes next.

onnx-ir's `TopologicalSortPass` was tried and not taken: it sorts a copy of the model, which it makes and
writes back, in four times the time; its error for a circle names no node; and importing it imports SymPy.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable

import onnx

from camrt.errors import ModelFileError
from camrt.export.budget import with_deadline
from camrt.export.graph.index import names_read
from camrt.export.graph.traversal import node_label, node_subgraphs
from camrt.export.graph.upkeep import replace_nodes
from camrt.export.limits import quote_name

__all__ = ["sort_nodes"]


def sort_nodes(graph: onnx.GraphProto) -> bool:
    """Puts the nodes of a graph and of its subgraphs in topological order, in place.

    Args:
        graph: A graph whose subgraphs are known not to nest too deeply.

    Returns:
        Whether they were in another order; nodes are other objects then.

    Raises:
        ModelFileError: Nodes that wait for one another.
    """
    changed = False
    for node in with_deadline(graph.node):
        for inner in node_subgraphs(node):
            changed |= sort_nodes(inner)
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    reads = [
        {makers[name] for name in names_read(node) if name in makers} for node in graph.node
    ]  # by node, the nodes that it waits for
    if all(index > max(waits, default=-1) for index, waits in enumerate(reads)):
        return changed
    order = _ordered(reads)
    if len(order) < len(graph.node):
        raise _circle(graph, set(range(len(graph.node))) - set(order))
    replace_nodes(graph, [graph.node[index] for index in order])
    return True


def _ordered(reads: list[set[int]]) -> list[int]:
    """Indices in order; those that wait for one another, and what waits for them, are left out."""
    readers: dict[int, list[int]] = defaultdict(list)
    for index, waits in enumerate(reads):
        for made in waits:
            readers[made].append(index)
    left = [len(waits) for waits in reads]
    ready = [index for index, count in enumerate(left) if count == 0]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers[index]:
            left[reader] -= 1
            if left[reader] == 0:
                heapq.heappush(ready, reader)
    return order


def _circle(graph: onnx.GraphProto, stuck: Iterable[int]) -> ModelFileError:
    nodes = [graph.node[index] for index in sorted(stuck)]
    made = {name for node in nodes for name in node.output}
    first = nodes[0]
    waits = next(name for name in names_read(first) if name in made)
    return ModelFileError(
        f"has nodes that wait for one another: {node_label(first)} reads {quote_name(waits)}, which is "
        "made of what it makes itself; export the model again"
    )
