"""Operators that move numbers about without changing one: the cotangents are moved back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from camrt.export.adjoint.registry import BackwardStep, rule
from camrt.export.allocation import arange, zeros
from camrt.export.graph.node_maker import TO_THE_END, Indices

__all__: list[str] = []

# Exporters write "to the end" as the largest number of 32 or of 64 bits.
NO_END = np.iinfo(np.int32).max


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshaped(step: BackwardStep) -> Sequence[str | None]:
    return [step.make.reshaped_like(step.g, step.x)]


@rule("Transpose")
def _transpose(step: BackwardStep) -> Sequence[str | None]:
    """The inverse permutation."""
    order = step.attribute("perm") or list(reversed(range(len(step.shape(step.x)))))
    return [step.make.transpose(step.g, [int(axis) for axis in np.argsort(order)])]


def is_fixed_axis(step: BackwardStep, axis: int) -> bool:
    """Whether an axis has the size it was analysed at whatever the batch and the images."""
    return step.fixed_size and axis > 0


def read_sizes(step: BackwardStep, name: str, axes: Sequence[int]) -> str:
    """A tensor's sizes along axes, read when the graph runs."""
    return step.make.add("Gather", step.make.shape_of(name), step.make.indices(axes), axis=0)


@rule("Concat")
def _concat(step: BackwardStep) -> Sequence[str | None]:
    """Each input gets its part."""
    make = step.make
    axis = step.attribute("axis") % len(step.shape(step.y))
    shapes = [step.graph.shape(name) for name in step.node.input]
    known = [shape[axis] for shape in shapes if shape is not None]
    if is_fixed_axis(step, axis) and len(known) == len(shapes):
        ends: list[Indices] = [[end] for end in accumulate(known)]
    else:
        sizes = [read_sizes(step, name, [axis]) for name in step.node.input]
        ends = [*accumulate(sizes, lambda before, size: make.add("Add", before, size))]
    starts: list[Indices] = [[0], *ends[:-1]]
    return [
        make.slice(step.g, start, end, [axis]) if step.needs_gradient(i) else None
        for i, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


@rule("Split")
def _split(step: BackwardStep) -> Sequence[str | None]:
    """The parts one behind the other, zeros for those the logits do not depend on."""
    make = step.make
    parts = [
        g if g is not None else make.zeros(make.shape_of(name))
        for g, name in zip(step.cotangents, step.node.output, strict=True)
    ]
    return [make.concat(parts, step.attribute("axis", 0))]


@rule("Slice")
def _slice(step: BackwardStep) -> Sequence[str | None]:
    """ȳ with zeros where numbers were left out: between them, before the first and behind the last."""
    make, g = step.make, step.g
    shape, taken = step.shape(step.x), step.shape(step.y)
    starts = step.whole_numbers(1, "starts")
    ends = step.whole_numbers(2, "ends")
    count = step.shape(starts)[0] if isinstance(starts, str) else len(starts)
    axes = [axis % len(shape) for axis in step.numbers(3, "axes") or range(count)]
    strides = step.numbers(4, "steps") or (1,) * len(axes)
    for axis, stride in zip(axes, strides, strict=True):
        if stride < 0:
            g = make.slice(g, [-1], [-TO_THE_END], [axis], [-1])
        if abs(stride) > 1:
            g = insert_zeros(step, g, axis, abs(stride))
    if isinstance(starts, str) or not all(
        is_fixed_axis(step, axis)
        or (start == 0 and strides[i] == 1 and not isinstance(ends, str) and int(ends[i]) >= NO_END)
        for i, (axis, start) in enumerate(zip(axes, starts, strict=True))
    ):
        return [pad_to_input(step, g, axes, find_lowest_taken(step, axes, starts, strides))]
    begins, lengths = [], []
    for axis, start, stride in zip(axes, starts, strides, strict=True):
        first = max(start + shape[axis], 0) if start < 0 else min(start, shape[axis] - (stride < 0))
        lengths.append(abs(stride) * (taken[axis] - 1) + 1)
        begins.append(first - lengths[-1] + 1 if stride < 0 else first)
    return [pad_to_input(step, g, axes, begins, lengths)]


def insert_zeros(step: BackwardStep, g: str, axis: int, stride: int) -> str:
    """`g` with stride − 1 zeros between any two numbers along an axis."""
    make = step.make
    rank = len(step.shape(step.x))
    pads = [0] * (2 * rank + 2)
    pads[rank + 1 + axis + 1] = stride - 1
    sizes = make.shape_of(g)
    before, after = make.slice(sizes, [0], [axis], [0]), make.slice(sizes, [axis + 1], [rank], [0])
    filled = make.reshape(
        make.pad(make.unsqueeze(g, [axis + 1]), pads), make.concat([before, make.indices([-1]), after], 0)
    )
    return make.crop(filled, [0] * rank, [(stride - 1) * (other == axis) for other in range(rank)])


def find_lowest_taken(
    step: BackwardStep, axes: Sequence[int], starts: Indices, strides: Sequence[int]
) -> str:
    """Where the lowest number lies that a Slice took along each axis, found when the graph runs."""
    make = step.make
    starts, zero = make.indices(starts), make.indices([0] * len(axes))
    sizes = read_sizes(step, step.x, axes)
    begin = make.add("Where", make.add("Less", starts, zero), make.add("Add", starts, sizes), starts)
    begin = make.add("Where", make.add("Less", begin, zero), zero, begin)
    if min(strides) > 0:
        return begin
    last = make.add("Sub", sizes, make.indices([int(stride < 0) for stride in strides]))
    begin = make.add("Where", make.add("Less", last, begin), last, begin)
    steps = make.add("Sub", read_sizes(step, step.y, axes), make.indices([1] * len(axes)))
    return make.add(
        "Add", begin, make.add("Mul", steps, make.indices([min(stride, 0) for stride in strides]))
    )


def pad_to_input(
    step: BackwardStep, g: str, axes: Sequence[int], begins: Indices, lengths: Sequence[int] | None = None
) -> str:
    """A part of the node's input in that input's size, zeros all around.

    Args:
        step: The node.
        g: The part.
        axes: The axes along which it is one.
        begins: Where it begins along each.
        lengths: How much of each it covers, when sizes and beginnings are settled.
    """
    make = step.make
    shape = step.shape(step.x)
    rank = len(shape)
    if lengths is not None:
        assert not isinstance(begins, str)
        settled_pads = np.zeros((2, rank), np.int64)
        for axis, begin, length in zip(axes, begins, lengths, strict=True):
            settled_pads[:, axis] = begin, shape[axis] - begin - length
        return make.pad(g, [int(pad) for pad in settled_pads.reshape(-1)]) if settled_pads.any() else g
    begins = make.indices(begins)
    left = make.add("Sub", read_sizes(step, step.x, axes), make.add("Add", read_sizes(step, g, axes), begins))
    pads = [make.indices([0])] * (2 * rank)
    for i, axis in enumerate(axes):
        pads[axis] = make.slice(begins, [i], [i + 1], [0])
        pads[rank + axis] = make.slice(left, [i], [i + 1], [0])
    return make.pad(g, make.concat(pads, 0))


@rule("Gather")
def _gather(step: BackwardStep) -> Sequence[str | None]:
    """What was picked is put back in its place, zeros elsewhere; what was picked twice is summed."""
    indices = step.constant(step.input(1))
    make, g = step.make, step.g
    shape = step.shape(step.x)
    axis = step.attribute("axis", 0) % len(shape)
    if indices is None:
        if axis:
            return [scatter_at_run_time(step, axis)]
        return [scatter_nd(step, make.unsqueeze(step.input(1), [len(step.shape(step.y)) - len(shape) + 1]))]
    fixed = is_fixed_axis(step, axis)
    picked = [int(index) for index in np.ravel(indices)]
    if fixed:
        picked = [index % shape[axis] for index in picked]
    if indices.ndim == 0:
        g = make.unsqueeze(g, [axis])
    if len(picked) == 1 and indices.ndim < 2:
        if fixed:
            return [pad_to_input(step, g, [axis], picked, [1])]
        return [pad_to_input(step, g, [axis], find_lowest_taken(step, [axis], picked, [1]))]
    if min(picked) < 0:
        return [scatter_at_run_time(step, axis)]
    if indices.ndim > 1:
        g = flatten_index_axes(step, axis)
    reach = shape[axis] if fixed else max(picked) + 1
    back = scatter_along_axis(step, g, picked, axis, reach)
    return [back if fixed else pad_to_input(step, back, [axis], [0])]


def flatten_index_axes(step: BackwardStep, axis: int) -> str:
    """ȳ with the axes of the indices joined to one."""
    make = step.make
    sizes = make.shape_of(step.x)
    before, after = make.slice(sizes, [0], [axis], [0]), make.slice(sizes, [axis + 1], [TO_THE_END], [0])
    return make.reshape(step.g, make.concat([before, make.indices([-1]), after], 0))


def scatter_at_run_time(step: BackwardStep, axis: int) -> str:
    """Gradient of a Gather whose indices are known only at run time.

    It multiplies by the one-hot matrix that the node itself gathers from an identity matrix.
    """
    make = step.make
    size = read_sizes(step, step.x, [axis])
    matrix = make.add("Gather", make.units(size), make.reshape(step.input(1), [-1]), axis=0)
    return make.product_along(flatten_index_axes(step, axis), matrix, axis, len(step.shape(step.x)))


def scatter_along_axis(step: BackwardStep, g: str, picked: Sequence[int], axis: int, size: int) -> str:
    """Numbers picked along an axis put back where they were; what was picked twice is summed."""
    matrix = zeros((len(picked), size), "matrix that puts numbers back")
    matrix[np.arange(len(picked)), picked] = 1.0
    return step.make.product_along(g, step.make.constant(matrix), axis, len(step.shape(step.x)))


@rule("GatherND")
def _gather_nd(step: BackwardStep) -> Sequence[str | None]:
    """The same for places that are given by an index an axis."""
    if step.attribute("batch_dims", 0):
        raise step.refuse("with batch_dims it has no rule")
    return [scatter_nd(step, step.input(1))]


def scatter_nd(step: BackwardStep, places: str) -> str:
    """Numbers picked from places along the first axes (the last axis of `places`) put back there."""
    make = step.make
    if step.needs_gradient(1):
        raise step.refuse("what it picks depends on the image")
    return make.add("ScatterND", make.zeros(make.shape_of(step.x)), places, step.g, reduction="add")


@rule("Expand")
def _expand(step: BackwardStep) -> Sequence[str | None]:
    return [step.make.sum_to(step.g, step.shape(step.y), step.x, step.shape(step.x))]


@rule("Tile")
def _tile(step: BackwardStep) -> Sequence[str | None]:
    """The copies summed: each tiled axis taken apart into copies and numbers."""
    repeats = step.constant(step.input(1))
    if repeats is None:
        raise step.refuse("its repeats depend on the image")
    make = step.make
    g, sizes = step.g, make.shape_of(step.x)
    parts: list[str] = []
    for axis, count in enumerate(np.ravel(repeats)):
        parts += [make.indices([int(count)]), make.slice(sizes, [axis], [axis + 1], [0])]
    apart = make.reshape(g, make.concat(parts, 0))
    copies = [2 * axis for axis in range(len(np.ravel(repeats)))]
    return [make.reshaped_like(make.reduce_sum(apart, copies, keepdims=False), step.x)]


@rule("DepthToSpace")
def _depth_to_space(step: BackwardStep) -> Sequence[str | None]:
    """SpaceToDepth; the order "CRD" has its channels exchanged as well."""
    size = step.attribute("blocksize")
    make = step.make
    back = make.add("SpaceToDepth", step.g, blocksize=size)
    if step.attribute("mode", "DCR") == "DCR":
        return [back]
    channels = step.shape(step.y)[1]
    order = arange(size * size * channels, "channels in depth").reshape(size * size, channels).T.reshape(-1)
    return [make.add("Gather", back, make.indices([int(i) for i in order]), axis=1)]


@rule("SpaceToDepth")
def _space_to_depth(step: BackwardStep) -> Sequence[str | None]:
    return [step.make.add("DepthToSpace", step.g, blocksize=step.attribute("blocksize"))]


@rule("Trilu")
def _trilu(step: BackwardStep) -> Sequence[str | None]:
    """ȳ above (below) the same diagonal."""
    diagonal = [step.input(1)] if step.input(1) else []
    return [step.make.add("Trilu", step.g, *diagonal, upper=step.attribute("upper", 1))]
