"""Which axes of a tensor run over the cells of a map, by following the operators from the image.

The rules are those of `camrt.export.geometry.axis_parts`.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from camrt.export.geometry.axis_parts import (
    ELSEWHERE,
    SPATIAL,
    Axes,
    Axis,
    Roles,
    Shape,
    axis_length,
    axis_role,
    broadcast_axes,
    concat_axes,
    matmul_axes,
    reduce_axes,
    reshape_axes,
    resize_axis,
    reverse_axes,
    roles_of,
    slice_axes,
    sliding_axes,
    unknown_axis,
    whole_axis,
    window_axis,
)
from camrt.export.geometry.spatial_steps import is_evenly_spaced
from camrt.export.graph.index import Graph, attribute

__all__ = ["RESAMPLING", "SAMPLING", "find_axis_roles", "read_integers"]

SLIDING = frozenset(
    {
        "Conv", "ConvTranspose", "FusedConv", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool",
        "GlobalMaxPool", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN",
        "DepthToSpace", "SpaceToDepth", "QLinearConv", "QLinearAveragePool",
    }
)  # fmt: skip
STRETCHING = frozenset({"Pad", "Resize", "Upsample"})
# Makes another image of an image, whose rows and columns are then what cells lie on.
RESAMPLING = "GridSample"
SAMPLING = frozenset({"RoiAlign"})
REGROUPING = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
# Put what they read into another order, or their axes are others than their input's.
REORDERING = frozenset(
    {
        "GRU", "GatherElements", "If", "LSTM", "Loop", "NonZero", "RNN",
        "ReverseSequence", "Scan", "Shape", "TopK", "Unique",
    }
)  # fmt: skip


def find_axis_roles(graph: Graph) -> dict[str, Roles]:
    """What each axis is, of every tensor of known shape that depends on the image."""
    batch, channels, height, width = graph.input_shape
    found: dict[str, Axes] = {
        graph.input_name: (
            whole_axis("n", batch),
            unknown_axis(channels),
            whole_axis("h", height),
            whole_axis("w", width),
        )
    }
    for node in graph.nodes:
        if not any(name in found for name in node.input):
            continue
        for position, name in enumerate(node.output):
            shape = graph.shape(name) if name else None
            if shape is not None:
                axes = trace_output(graph, node, position, shape, found)
                if len(axes) != len(shape):  # of a node that no input has the axes for
                    axes = tuple(unknown_axis(size) for size in shape)
                found[name] = tuple(
                    axis if axis_length(axis) == size else unknown_axis(size)
                    for axis, size in zip(axes, shape, strict=True)
                )
    return {name: roles_of(axes) for name, axes in found.items()}


def trace_output(graph: Graph, node: NodeProto, position: int, shape: Shape, found: dict[str, Axes]) -> Axes:
    """What the axes of one output of a node are; those of another size than the output's mean nothing."""
    operator = node.op_type
    read = [found[name] for name in node.input if name in found]
    nothing = tuple(unknown_axis(size) for size in shape)
    if operator == "MatMul":
        return trace_matmul(graph, node, shape, found)
    if operator == "Einsum":
        return trace_einsum(graph, node, shape, found)
    if operator == "Concat":
        return concat_axes(
            [found.get(name) for name in node.input], attribute(node, "axis") % len(shape), shape
        )
    first = found.get(node.input[0])
    if operator == RESAMPLING and len(shape) == 4 and first is not None:
        return (first[0], unknown_axis(shape[1]), whole_axis("h", shape[2]), whole_axis("w", shape[3]))
    if operator in SAMPLING and len(shape) == 4 and first is not None:
        return (first[0], unknown_axis(shape[1]), *(whole_axis(ELSEWHERE, size) for size in shape[2:]))
    if operator in REORDERING or (
        operator == "GatherND" and (first is None or attribute(node, "batch_dims", 0))
    ):
        return nothing
    if first is None:
        return broadcast_axes(read, shape)
    if operator in SLIDING and len(shape) == len(first) > 2:
        return sliding_axes(first, shape, graph.input_shape[0])
    if operator in STRETCHING and len(shape) == len(first):
        return tuple(resize_axis(axis, size) for axis, size in zip(first, shape, strict=True))
    if operator == "Gemm":
        return (first[0], unknown_axis(shape[1])) if not attribute(node, "transA", 0) else nothing
    if operator in REGROUPING:
        return reshape_axes(first, shape)
    if operator == "Transpose":
        order = attribute(node, "perm", range(len(first))[::-1])
        return tuple(first[axis] for axis in order) if len(order) == len(first) else nothing
    if operator in ("Slice", "Split"):
        before = tuple(axis_length(axis) for axis in first)
        starts = split_starts(graph, node, position, before) or slice_starts(graph, node, before)
        return slice_axes(reverse_axes(first, find_reversed_axes(graph, node, before)), starts, shape)
    if operator == "Gather":
        return trace_gather(graph, node, first, shape)
    if operator == "GatherND":  # as many axes are lost as an index has numbers
        left = len(graph.shape(node.input[1]) or ()) - 1
        kept = first[len(first) + left - len(shape) :]
        return (*map(unknown_axis, shape[:left]), *kept) if left >= 0 else nothing
    if operator.startswith("Reduce") and len(shape) < len(first):
        kept = reduce_axes(first, read_integers(graph, node, "axes", 1) or range(len(first)))
        return kept if len(kept) == len(shape) else nothing
    return broadcast_axes(read, shape)


def trace_matmul(graph: Graph, node: NodeProto, shape: Shape, found: dict[str, Axes]) -> Axes:
    """MatMul; of a product with a vector nothing is known."""
    if len(shape) < 2 or any(len(graph.shape(name) or ()) < 2 for name in node.input):
        return tuple(unknown_axis(size) for size in shape)
    return matmul_axes(found.get(node.input[0]), found.get(node.input[1]), shape)


def trace_einsum(graph: Graph, node: NodeProto, shape: Shape, found: dict[str, Axes]) -> Axes:
    """Einsum: a letter of the result is the axis that bears it."""
    terms, arrow, letters = attribute(node, "equation", "").replace(" ", "").partition("->")
    named: dict[str, Axis] = {}
    for term, name in zip(terms.split(","), node.input, strict=False):
        if len(term) == len(found.get(name, ())):
            named |= dict(zip(term, found[name], strict=True))
    if not arrow or "." in terms or len(letters) != len(shape):
        return tuple(unknown_axis(size) for size in shape)
    return tuple(named.get(letter, unknown_axis(size)) for letter, size in zip(letters, shape, strict=True))


def trace_gather(graph: Graph, node: NodeProto, first: Axes, shape: Shape) -> Axes:
    """Gather: the axis it takes numbers from is lost, except to a crop or a table of windows slid over it."""
    axis = attribute(node, "axis", 0) % len(first)
    left = len(shape) - len(first) + 1
    made = [unknown_axis(size) for size in shape[axis : axis + left]]
    indices = graph.value_at_probe(node.input[1]) if left == 2 else None
    chosen = graph.constant(node.input[1]) if left == 1 else None
    if chosen is not None and is_evenly_spaced(chosen) and axis_role(first[axis]) in SPATIAL:
        backwards = {0} if chosen[0] > chosen[-1] else set()
        made = [resize_axis(reverse_axes((first[axis],), backwards)[0], len(chosen))]
    if indices is not None and indices.ndim == 2 and indices.size:
        down, along = (
            int(steps.flat[0]) if steps.size else 0 for steps in (np.diff(indices, axis=d) for d in (0, 1))
        )
        table = indices[0, 0] + down * np.arange(len(indices))[:, None] + along * np.arange(indices.shape[1])
        if min(down, along) >= 0 and np.array_equal(table, indices):
            # Windows are further apart than what is in one; of equal steps, there are more of them.
            last = (along, indices.shape[1]) >= (down, len(indices))
            offsets, windows = indices.shape if last else indices.shape[::-1]
            inside, places = window_axis(first[axis], offsets, windows)
            made = [inside, places] if last else [places, inside]
    return (*first[:axis], *made, *first[axis + 1 :])


def split_starts(graph: Graph, node: NodeProto, position: int, before: Shape) -> dict[int, int | None]:
    """Axis -> first number taken, of one output of a Split; empty for other nodes."""
    if node.op_type != "Split":
        return {}
    axis = attribute(node, "axis", 0) % len(before)
    sizes = [(graph.shape(name) or before)[axis] for name in node.output]
    return {axis: sum(sizes[:position])}


def slice_starts(graph: Graph, node: NodeProto, before: Shape) -> dict[int, int | None]:
    """Axis -> first number a Slice takes; None where it goes backwards or its start is computed."""
    starts = read_integers(graph, node, "starts", 1)
    axes = read_integers(graph, node, "axes", 3) or range(len(before if starts is None else starts))
    steps = read_integers(graph, node, "steps", 4) or [1] * len(axes)
    if starts is None or len({len(starts), len(axes), len(steps)}) > 1:
        return {axis % len(before): None for axis in axes}
    result: dict[int, int | None] = {}
    for axis, start, step in zip(axes, starts, steps, strict=True):
        size = before[axis % len(before)]
        first = min(max(0, start + size * (start < 0)), size)
        whole = step == -1 and first >= size - 1
        result[axis % len(before)] = 0 if whole else None if step < 0 else first
    return result


def find_reversed_axes(graph: Graph, node: NodeProto, before: Shape) -> set[int]:
    """The axes that a Slice goes through from last to first."""
    steps = (read_integers(graph, node, "steps", 4) or []) if node.op_type == "Slice" else []
    axes = read_integers(graph, node, "axes", 3) or range(len(steps))
    return {axis % len(before) for axis, step in zip(axes, steps, strict=False) if step == -1}


def read_integers(graph: Graph, node: NodeProto, name: str, position: int) -> list[int] | None:
    """Whole numbers that are an attribute in early operator sets, and an input in later ones."""
    given = attribute(node, name)
    if given is None and len(node.input) > position:
        value = graph.constant(node.input[position])
        given = None if value is None else value.reshape(-1).tolist()
    return None if given is None else [int(number) for number in given]
