"""Gathers whose indices count images, rewritten to what they do to each image.

Exporters write `as_strided` and `x[arange(N), i]` as index arithmetic on the batch size. Evaluated at
several batch sizes, such indices are n·r + p with the same p for every image n, where r is how many rows an
image has.

1. Where p is every row once, in an order that a Transpose gives, the node becomes that, between
   two Reshapes.
2. Otherwise it becomes a Gather of p along the rows of each image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto

from camrt.export.budget import with_deadline
from camrt.export.graph.index import Graph, attribute, opset
from camrt.export.graph.node_maker import NodeMaker
from camrt.export.graph.upkeep import replace_nodes

__all__ = ["has_image_gathers", "rewrite_image_gathers"]

Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageGather:
    """What a Gather does to each image.

    Attributes:
        source: The tensor (N, ...) whose numbers they are.
        rows: Rows an image has.
        picks: The rows taken, of the shape of the answer's first axes, the image's own left out.
        rest: Shape of a row.
        answer: Shape of an image's answer.
    """

    source: str
    rows: int
    picks: Array
    rest: tuple[int, ...]
    answer: tuple[int, ...]

    def is_same(self, other: ImageGather) -> bool:
        """Whether another choice is this one."""
        sizes = (self.rows, self.rest, self.answer) == (other.rows, other.rest, other.answer)
        return sizes and self.picks.shape == other.picks.shape and bool((self.picks == other.picks).all())


def has_image_gathers(model: onnx.ModelProto) -> bool:
    """Whether a node of the model is of a kind that this module rewrites."""
    return any(
        node.op_type == "GatherND" or (node.op_type == "Gather" and not attribute(node, "axis", 0))
        for node in model.graph.node
    )


def rewrite_image_gathers(model: onnx.ModelProto, graphs: Sequence[Graph]) -> bool:
    """Rewrites a model in place; whether anything was.

    Args:
        model: The model.
        graphs: Its index at several batch sizes, and image sizes where those are open: what holds in all of
            them is taken to hold.
    """
    make = NodeMaker(opset(model), prefix="camrt_picks")
    changed = False
    for node in with_deadline(model.graph.node):
        found = [read_image_gather(graph, node) for graph in graphs]
        first = found[0]
        if first is None or not all(other is not None and first.is_same(other) for other in found):
            make.nodes.append(node)
            continue
        apart = make.reshape(first.source, [-1, first.rows, *first.rest])
        make.reshape(make_gather_nodes(make, apart, first), [-1, *first.answer])
        make.nodes[-1].output[0] = node.output[0]
        changed = True
    if changed:
        replace_nodes(model.graph, make.nodes)
        model.graph.initializer.extend(make.initializers)
    return changed


def read_image_gather(graph: Graph, node: NodeProto) -> ImageGather | None:
    """What a node does to each image at the batch size of a graph; None where it does something else."""
    batch = graph.input_shape[0]
    over_rows = node.op_type == "Gather" and not attribute(node, "axis", 0)
    by_place = node.op_type == "GatherND" and not attribute(node, "batch_dims", 0)
    if not (over_rows or by_place) or node.input[0] not in graph.dependent:
        return None
    data, answer = graph.shape(node.input[0]), graph.shape(node.output[0])
    indices = graph.value_at_probe(node.input[1])
    if not data or not answer or indices is None or not indices.ndim or not indices.size:
        return None
    places = indices.astype(np.int64)
    if by_place:
        depth = places.shape[-1]
        if depth > len(data) or indices.ndim < 2:
            return None
        limits = data[:depth]
        wrapped = places % np.array(limits)
        places = np.ravel_multi_index(tuple(np.moveaxis(wrapped, -1, 0)), limits)
        data = (int(np.prod(limits)), *data[depth:])
    rows, left = divmod(data[0], batch)
    source = find_image_first(graph, node.input[0])
    if left or source is None or answer[0] != batch or places.shape[0] != batch:
        return None
    each = places % data[0]
    picks = each - rows * np.arange(batch).reshape(-1, *[1] * (each.ndim - 1))
    if (picks != picks[:1]).any() or picks.min() < 0 or picks.max() >= rows:
        return None
    return ImageGather(source, rows, picks[0], data[1:], answer[1:])


def find_image_first(graph: Graph, name: str) -> str | None:
    """A tensor of the same numbers in the same order whose first axis is that of the images."""
    shape = graph.shape(name) or ()
    if shape[:1] == graph.input_shape[:1]:
        return name
    node = graph.producer(name)
    if node is None or node.op_type not in ("Reshape", "Flatten"):
        return None
    return find_image_first(graph, node.input[0])


def make_gather_nodes(make: NodeMaker, name: str, choice: ImageGather) -> str:
    """Nodes that take an image's rows, (N, rows, ...) -> (N, picks, ...)."""
    picks = choice.picks
    flat = picks.reshape(-1)
    if np.array_equal(flat, np.arange(choice.rows)):
        return name
    order = transposed_axes(picks, choice.rows)
    if order is None:
        return make.add("Gather", name, make.indices(flat.tolist()), axis=1)
    sizes = [picks.shape[axis] for axis in order]
    behind = range(len(sizes) + 1, len(sizes) + 1 + len(choice.rest))
    split = make.reshape(name, [-1, *sizes, *choice.rest])
    return make.transpose(split, [0, *(int(axis) + 1 for axis in np.argsort(order)), *behind])


def transposed_axes(picks: Array, rows: int) -> list[int] | None:
    """The axes of the picks from the slowest to the fastest, when they are all rows in a transposed order."""
    if picks.size != rows:
        return None
    steps = [
        int(np.take(picks, 1, axis).flat[0] - picks.flat[0]) if size > 1 else 0
        for axis, size in enumerate(picks.shape)
    ]
    order = sorted(range(picks.ndim), key=lambda axis: -steps[axis])
    straight: Any = np.arange(rows).reshape([picks.shape[axis] for axis in order])
    return order if (straight.transpose(np.argsort(order)) == picks).all() else None
