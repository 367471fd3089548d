"""Which axes of a module's tensors run over the cells of a map, by following what autograd recorded.

The rules are those of `camrt.export.geometry.axis_parts`. A tensor's *edge* is the node of the autograd
graph that made it, and the number of that node's output, as in `torch.autograd.graph.GradientEdge`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from operator import mul
from typing import Any

import torch

from camrt.export.geometry.axis_parts import (
    Axes,
    Shape,
    axis_length,
    axis_role,
    broadcast_axes,
    concat_axes,
    matmul_axes,
    reduce_axes,
    reshape_axes,
    resize_axis,
    slice_axes,
    sliding_axes,
    unknown_axis,
    whole_axis,
    window_axis,
)

__all__ = ["SAVED_VALUE_ERRORS", "GradientEdge", "axes_of", "operation_name", "reduced_axes", "shapes_of"]

GradientEdge = tuple[Any, int]

REGROUPING = frozenset({"ReshapeAlias", "Squeeze", "UnsafeView", "Unsqueeze", "View"})
SLIDING = frozenset(
    {
        "AdaptiveAvgPool2D", "AdaptiveMaxPool2D", "AvgPool2D", "Convolution", "CudnnConvolution",
        "MaxPool2D", "MaxPool2DWithIndices", "MiopenConvolution", "MkldnnConvolution", "NativeGroupNorm",
        "PixelShuffle", "PixelUnshuffle",
    }
)  # fmt: skip
STRETCHING = ("ConstantPad", "ReflectionPad", "ReplicationPad", "Upsample")
REDUCING = frozenset(
    {
        "Amax", "Amin", "LinalgVectorNorm", "Logsumexp", "Max", "Mean", "Median", "Min", "Norm", "Prod",
        "Std", "StdMean", "Sum", "Var", "VarMean",
    }
)  # fmt: skip
# Put what they read into another order, or their axes are others than their input's.
REORDERING = frozenset({"Diagonal", "Gather", "GridSampler2D", "Sort", "Topk", "Unique2"})
ATTENTION = "ScaledDotProduct"
# Raised where a saved value of an autograd node is missing: another version of torch names it otherwise, or
# the tensor was overwritten.
SAVED_VALUE_ERRORS = (AttributeError, RuntimeError)


def operation_name(node: Any) -> str:
    """The operation a node of the autograd graph stands for, such as "Addmm"."""
    return re.sub(r"Backward\d*$", "", str(node.name()))


def shapes_of(node: Any) -> list[Shape]:
    """The shapes of what a node made; empty where autograd does not know them."""
    known = getattr(node, "_input_metadata", None) or []
    return [tuple(int(size) for size in each.shape) for each in known]


def axes_of(node: Any, position: int, shape: Shape, found: Mapping[GradientEdge, Axes], batch: int) -> Axes:
    """What the axes of one of a node's outputs are, from those of what it read."""
    name = operation_name(node)
    given = [
        None if before is None else found.get((before, number)) for before, number in node.next_functions
    ]
    read = [axes for axes in given if axes is not None]
    first = given[0] if given else None
    nothing = tuple(unknown_axis(size) for size in shape)
    if name in REORDERING or not read:
        return nothing
    if name in PRODUCTS or name.startswith(ATTENTION):
        return matmul_rule(name, given, shape)
    if name in ("Cat", "Stack"):
        return concat_rule(node, name, given, shape)
    if first is None:
        return broadcast_axes(read, shape)
    if name in SLIDING and len(shape) == len(first) > 2:
        return sliding_axes(first, shape, batch)
    if name.startswith(STRETCHING) and len(shape) == len(first):
        return tuple(resize_axis(axis, size) for axis, size in zip(first, shape, strict=True))
    if name in REGROUPING:
        return reshape_axes(first, shape)
    if name in REDUCING and len(shape) < len(first):
        kept = reduce_axes(first, reduced_axes(node, len(first)))
        return kept if len(kept) == len(shape) else nothing
    rule = RULES.get(name)
    try:
        made = broadcast_axes(read, shape) if rule is None else rule(node, position, first, shape)
    except SAVED_VALUE_ERRORS:
        return nothing
    return made if len(made) == len(shape) else nothing


def reduced_axes(node: Any, rank: int) -> Sequence[int]:
    """The axes over which a reduction goes."""
    return [axis % rank for axis in to_signed_ints(getattr(node, "_saved_dim", None))] or range(rank)


def to_signed_ints(value: Any) -> list[int]:
    """An axis, or several; autograd keeps negative ones as numbers just below 2^64."""
    values = [] if value is None else [value] if isinstance(value, int) else list(value)
    return [each - (1 << 64) if each >= 1 << 63 else each for each in values]


PRODUCTS = {"Addmm": 1, "Mm": 0, "Bmm": 0, "Baddbmm": 1, "Linear": 0}
"""Which of what an operation reads is the first matrix; the second comes next."""


def matmul_rule(name: str, given: Sequence[Axes | None], shape: Shape) -> Axes:
    """A product of matrices; attention gives a row of its third to each row of its first."""
    if name.startswith(ATTENTION):
        first, second = given[0], given[2]
    elif name == "Linear":
        first, second = given[0], None
    else:
        at = PRODUCTS[name]
        first, second = given[at], given[at + 1]
    return matmul_axes(first, second, shape)


def concat_rule(node: Any, name: str, given: Sequence[Axes | None], shape: Shape) -> Axes:
    """Tensors joined along one of their axes, or along a new one."""
    (axis,) = to_signed_ints(node._saved_dim)
    axis %= len(shape)
    if name == "Cat":
        return concat_axes(given, axis, shape)
    rest = (*shape[:axis], *shape[axis + 1 :])
    kept = broadcast_axes([axes for axes in given if axes is not None], rest)
    return (*kept[:axis], unknown_axis(shape[axis]), *kept[axis:])


def permute_rule(node: Any, _: int, first: Axes, __: Shape) -> Axes:
    return tuple(first[axis] for axis in to_signed_ints(node._saved_dims))


def transpose_rule(node: Any, _: int, first: Axes, __: Shape) -> Axes:
    order = list(first)
    one, two = to_signed_ints((node._saved_dim0, node._saved_dim1))
    order[one], order[two] = order[two], order[one]
    return tuple(order)


def reverse_rule(_: Any, __: int, first: Axes, ___: Shape) -> Axes:
    return first[::-1]


def slice_rule(node: Any, _: int, first: Axes, shape: Shape) -> Axes:
    (axis,) = to_signed_ints(node._saved_dim)
    (start,) = to_signed_ints(node._saved_start)
    size = axis_length(first[axis])
    return slice_axes(first, {axis % len(first): min(max(0, start + size * (start < 0)), size)}, shape)


def select_rule(node: Any, _: int, first: Axes, __: Shape) -> Axes:
    return reduce_axes(first, to_signed_ints(node._saved_dim))


def split_rule(node: Any, position: int, first: Axes, shape: Shape) -> Axes:
    (axis,) = to_signed_ints(node._saved_dim)
    start = sum(made[axis] for made in shapes_of(node)[:position])
    return slice_axes(first, {axis % len(first): start}, shape)


def as_strided_rule(node: Any, _: int, first: Axes, shape: Shape) -> Axes:
    """What autograd makes of a view once its tensor was written into: the whole, or a block of it."""
    sizes = [axis_length(axis) for axis in first]
    steps = tuple(accumulate(reversed(sizes[1:]), mul, initial=1))[::-1]
    given, rest = tuple(node._saved_stride), node._saved_storage_offset or 0
    if shape == tuple(sizes) and not rest and given == channels_last_strides(sizes):
        return first
    if given != steps:
        return tuple(unknown_axis(size) for size in shape)
    starts = {}
    for axis, step in enumerate(steps):
        starts[axis], rest = divmod(rest, step)
    return slice_axes(first, starts, shape)


def channels_last_strides(sizes: Sequence[int]) -> Shape | None:
    """The strides of a tensor (N, C, H, W) whose channels lie side by side."""
    if len(sizes) != 4:
        return None
    _, channels, height, width = sizes
    return (channels * height * width, 1, channels * width, channels)


def index_rule(node: Any, _: int, first: Axes, shape: Shape) -> Axes:
    """The axis an index takes numbers from is lost; of several such axes nothing is known."""
    indices = list(node._saved_indices)
    used = [axis for axis, index in enumerate(indices) if isinstance(index, torch.Tensor)]
    if len(used) != 1:
        return tuple(unknown_axis(size) for size in shape)
    (axis,) = used
    return (*first[:axis], *map(unknown_axis, shape[axis : axis + indices[axis].ndim]), *first[axis + 1 :])


def reorder_rule(node: Any, _: int, first: Axes, __: Shape) -> Axes:
    """Rows, columns and cells along some axes are put into another order."""
    given = node._saved_dims if hasattr(node, "_saved_dims") else node._saved_dim
    changed = {axis % len(first) for axis in to_signed_ints(given)}
    return tuple(
        unknown_axis(axis_length(axis)) if index in changed else axis for index, axis in enumerate(first)
    )


def im2col_rule(node: Any, _: int, first: Axes, shape: Shape) -> Axes:
    """`torch.nn.functional.unfold`: (N, K·k, L), one window after the other, row by row."""
    sides = (node._saved_self_sym_argsize_minus_2, node._saved_self_sym_argsize_minus_1)
    options = zip(
        sides,
        node._saved_kernel_size,
        node._saved_stride,
        node._saved_padding,
        node._saved_dilation,
        strict=True,
    )
    counts = [
        (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for side, kernel, stride, padding, dilation in options
    ]
    cells = [window_axis(axis, 1, count)[1] for axis, count in zip(first[-2:], counts, strict=True)]
    return (*first[:-3], unknown_axis(shape[-2]), (*cells[0], *cells[1]))


def col2im_rule(_: Any, __: int, first: Axes, shape: Shape) -> Axes:
    """`torch.nn.functional.fold`: windows of a map are a map again."""
    cells = axis_role(first[-1])
    named = ("", "") if isinstance(cells, str) else ("h", "w")
    sides = [
        whole_axis(name, size) if name else unknown_axis(size)
        for name, size in zip(named, shape[-2:], strict=True)
    ]
    return (*first[:-2], unknown_axis(shape[-3]), *sides)


def unfold_rule(node: Any, _: int, first: Axes, shape: Shape) -> Axes:
    """`Tensor.unfold`: windows over one axis, what is in each of them in a new last axis."""
    (axis,) = to_signed_ints(node._saved_dimension)
    axis %= len(first)
    size, step = node._saved_size, node._saved_step
    if size == step and axis_length(first[axis]) == size * shape[axis]:
        windows, inside = reshape_axes((first[axis],), (shape[axis], size))
    else:
        inside, windows = window_axis(first[axis], shape[-1], shape[axis])
    return (*first[:axis], windows, *first[axis + 1 :], inside)


RULES: dict[str, Callable[[Any, int, Axes, Shape], Axes]] = {
    "AsStrided": as_strided_rule,
    "Flip": reorder_rule,
    "Im2Col": im2col_rule,
    "Col2Im": col2im_rule,
    "Index": index_rule,
    "IndexSelect": reorder_rule,
    "Permute": permute_rule,
    "Roll": reorder_rule,
    "Select": select_rule,
    "Slice": slice_rule,
    "Split": split_rule,
    "SplitWithSizes": split_rule,
    "T": reverse_rule,
    "Transpose": transpose_rule,
    "Unbind": select_rule,
    "Unfold": unfold_rule,
    "UnsafeSplit": split_rule,
}
