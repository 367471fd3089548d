"""Whether log p(y,z|x) of a CALM file depends, at each cell, on that cell alone, up to one number an image.

Then p(y|x) = Σ_z exp r[y,z] / Σ_y,z exp r[y,z], with r[y,z] depending on cell z of the activation: a ratio of
sums.
"""

from __future__ import annotations

from onnx import NodeProto

from camrt.export.graph.index import Graph, attribute
from camrt.export.graph.operators import preserves_values
from camrt.export.heads.cellwise import find_cellwise_region

__all__ = ["is_ratio_of_cells"]


def is_ratio_of_cells(graph: Graph, start: str, joint: str) -> bool:
    """Whether log p(y,z|x) is r[y,z] + s, with r cell by cell and s one number an image.

    Args:
        graph: The graph.
        start: The activation (N, K, h, w).
        joint: log p(y,z|x), (N, C, h, w).
    """
    nodes = [graph.nodes[index] for index in graph.upstream_nodes(joint, stop=[start])]
    cells = find_cellwise_region(graph, start, nodes)
    shifted: set[str] = set()
    numbers: set[str] = set()
    downstream = graph.downstream(start)
    for node in nodes:
        made = node.output[0]
        moving = [name for name in node.input if name in downstream or name == start]
        if made in cells or not moving:
            continue
        mapped = [name for name in moving if name in cells or name in shifted]
        if node.op_type == "ReduceLogSumExp" and mapped == moving and is_one_per_image(graph, node):
            numbers.add(made)
        elif node.op_type in ("Add", "Sub") and len(mapped) + sum(name in numbers for name in moving) == len(
            moving
        ):
            (shifted if mapped else numbers).add(made)
        elif preserves_values(node) and mapped == moving:
            shifted.add(made)
        else:
            return False
    return joint in cells or joint in shifted


def is_one_per_image(graph: Graph, node: NodeProto) -> bool:
    """Whether a reduction leaves one number an image, (N, 1, 1, 1)."""
    shape = graph.shape(node.output[0])
    return bool(attribute(node, "keepdims", 1)) and shape is not None and shape[1:] == (1, 1, 1)
