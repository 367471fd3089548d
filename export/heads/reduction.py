"""P: how a head takes a map's cells together, read off the operators that move or average them.

Every element of the map is followed by its index through transposes, reshapes and averages. What comes out
is either one average over all cells a channel (*pooled*) or every element once in some order (*flattened*).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from camrt.export.allocation import arange
from camrt.export.budget import reserve_array
from camrt.export.graph.index import Graph, attribute, names_read
from camrt.export.graph.operators import RESHAPING, preserves_values

__all__ = ["Reduction", "find_reduction"]

COPIES = 2  # of the places in a map that are held at once: those of a tensor, and of the one behind it


@dataclass(frozen=True)
class Reduction:
    """How a map (K, h, w) becomes a vector.

    Attributes:
        kind: "mean", "sum" or "flatten".
        tensor: Name of the tensor that holds the vector.
        order: For mean and sum, (K,): the channel each entry averages. For flatten, (K·h·w,): the index into
            the (K, h, w) map, in C order, that each entry is.
    """

    kind: Literal["mean", "sum", "flatten"]
    tensor: str
    order: npt.NDArray[np.int64]


def find_reduction(graph: Graph, start: str, nodes: list[NodeProto]) -> Reduction | str:
    """Follows the map `start` through the nodes that read it; a sentence saying why not, if it cannot be."""
    shape = graph.shape(start)
    assert shape is not None
    if 0 in shape:
        return f"{start!r} is empty"
    cells = shape[2] * shape[3]
    # members[..., m]: the elements of the map that entry holds the mean (or sum) of.
    reserve_array((COPIES, *shape[1:]), "places in a map", itemsize=8)
    members = arange(math.prod(shape[1:]), "places in a map").reshape(*shape[1:], 1)
    kinds: set[str] = set()
    current = start
    while True:
        pooled = members.shape[-1] == cells
        readers = [node for node in nodes if current in names_read(node)]
        if len(readers) != 1:
            if pooled:
                break
            return f"{len(readers)} nodes read {current!r}"
        node = readers[0]
        after = graph.shape(node.output[0])
        if preserves_values(node) and after == graph.shape(current):
            current = node.output[0]
            continue
        if after is None or after[:1] != shape[:1]:
            if pooled:
                break
            return f"the shape behind {node.op_type} {node.name!r} is not known"
        if node.op_type in RESHAPING:
            moved = move_indices(node, members, after)
            if moved is None:
                if pooled:
                    break
                return f"{node.op_type} {node.name!r} moves the batch axis"
            members, current = moved, node.output[0]
            continue
        axes = reduced_axes(graph, node, members.ndim - 1)
        together = 1 if axes is None else math.prod(members.shape[axis] for axis in axes)
        if axes is None or (pooled and together > 1):
            break
        if together > 1:
            kinds.add("sum" if node.op_type == "ReduceSum" else "mean")
        if math.prod(after[1:]) * together * members.shape[-1] != members.size:
            return f"the shape behind {node.op_type} {node.name!r} is not what is left of its axes"
        members = move_axes_last(members, axes).reshape(*after[1:], -1)
        current = node.output[0]
    if len(kinds) > 1:
        return f"{current!r} is a sum of means"
    return make_reduction(members, shape, current, "sum" in kinds)


def make_reduction(
    members: npt.NDArray[np.int64], shape: tuple[int, ...], tensor: str, summed: bool
) -> Reduction | str:
    cells = shape[2] * shape[3]
    together = members.shape[-1]
    flat = members.reshape(-1, together)
    if together == 1:
        return Reduction("flatten", tensor, flat[:, 0])
    channels = flat.min(axis=1) // cells
    if together != cells or (flat.max(axis=1) // cells != channels).any():
        return f"{tensor!r} averages groups of {together} elements, not one channel's {cells} cells"
    return Reduction("sum" if summed else "mean", tensor, channels)


def move_indices(node: NodeProto, members: npt.NDArray[np.int64], after: tuple[int, ...]) -> Any:
    """Applies a transpose or reshape to the indices; None when the batch axis takes part."""
    if node.op_type != "Transpose":
        fits = math.prod(after[1:]) * members.shape[-1] == members.size
        return members.reshape(*after[1:], members.shape[-1]) if fits else None
    order = list(attribute(node, "perm", list(range(members.ndim))[::-1]))
    if order[:1] != [0] or sorted(order) != list(range(members.ndim)):
        return None
    return members.transpose(*[axis - 1 for axis in order[1:]], members.ndim - 1)


def reduced_axes(graph: Graph, node: NodeProto, rank: int) -> list[int] | None:
    """The axes (batch not counted) that a node averages or sums over in full; None for any other node."""
    before = graph.shape(node.input[0])
    if before is None:
        return None
    if node.op_type == "GlobalAveragePool":
        return list(range(1, rank))
    if node.op_type == "AveragePool":
        whole = tuple(attribute(node, "kernel_shape", [])) == before[2:]
        padded = any(attribute(node, "pads", [])) or attribute(node, "auto_pad", "NOTSET") != "NOTSET"
        return list(range(1, rank)) if whole and not padded else None
    if node.op_type in ("ReduceMean", "ReduceSum"):
        axes = attribute(node, "axes")
        if axes is None and len(node.input) > 1 and node.input[1]:
            value = graph.constant(node.input[1])
            axes = None if value is None else value.reshape(-1).tolist()
        if not axes:
            return None
        positive = sorted(axis % len(before) for axis in axes)
        return [axis - 1 for axis in positive] if positive[0] > 0 else None
    return None


def move_axes_last(members: npt.NDArray[np.int64], axes: list[int]) -> npt.NDArray[np.int64]:
    """Moves the reduced axes into the last one."""
    kept = [axis for axis in range(members.ndim - 1) if axis not in axes]
    ordered = members.transpose(*kept, *axes, members.ndim - 1)
    return ordered.reshape(*[members.shape[axis] for axis in kept], -1)
