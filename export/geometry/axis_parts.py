"""What an axis of a tensor runs over, and what becomes of it when the tensor is reshaped, joined or cut.

An axis is written as the parts that make up its numbers, the slowest first: an axis of tokens is (h, w), one
of images and windows (n, front of h, front of w), one of channels (nothing known). Then

1. what is reshaped has its parts taken apart and neighbours put together, exactly: windows that are cut out
   of rows and columns, and joined again, give the rows and columns back;
2. transposing, multiplying, cutting, joining and reducing do to the axes what they do to the tensor; tokens
   put in front of those that stand for cells make them a *prefix*;
3. a convolution or a pooling keeps the order of what it slides over, and so do windows that are laid out;
4. everything else gives each axis of its output what the inputs say of an axis of that size.

Where the cells' order is lost, as in a Swin transformer's shifted windows, nothing is said of an axis until a
skip connection says it again. `camrt.export.geometry.axis_roles` follows the nodes of an ONNX graph by these
rules, and
`camrt.engine.torch_models.axes` what autograd recorded of a torch module.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import mul

__all__ = [
    "ELSEWHERE",
    "SPATIAL",
    "Axes",
    "Axis",
    "CellTokens",
    "Part",
    "Role",
    "Roles",
    "Shape",
    "axis_length",
    "axis_role",
    "broadcast_axes",
    "concat_axes",
    "matmul_axes",
    "reduce_axes",
    "reshape_axes",
    "resize_axis",
    "reverse_axes",
    "roles_of",
    "slice_axes",
    "sliding_axes",
    "unknown_axis",
    "whole_axis",
    "window_axis",
]  # fmt: skip


@dataclass(frozen=True)
class CellTokens:
    """An axis of tokens: some that belong to no cell, then one a cell, row by row.

    Attributes:
        prefix: Tokens in front that belong to no cell.
        height: Rows of cells.
        width: Columns of cells.
    """

    prefix: int
    height: int
    width: int

    @property
    def size(self) -> int:
        """Tokens in all."""
        return self.prefix + self.height * self.width


@dataclass(frozen=True)
class Part:
    """Numbers of an axis that run over images, rows or columns.

    Attributes:
        role: "n" the images, "h" rows, "w" columns, "-h" and "-w" rows and columns from last to first, ""
            nothing that is known.
        size: How many numbers.
        step: How many images, rows or columns one number further is.
        whole: How many of them there are.
    """

    role: str
    size: int
    step: int = 1
    whole: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether the numbers run over all of them, in steps, from first to last."""
        return bool(self.role) and self.size * self.step == self.whole


# What an axis is, for those who ask: "n", "h", "w", "-h", "-w", `ELSEWHERE`, tokens, "1" for one number
# alone, or "" for nothing that is known.
ELSEWHERE = "?"  # rows and columns of something sampled from the images, that lie elsewhere than theirs
SPATIAL = frozenset({"h", "w", "-h", "-w", ELSEWHERE})
Role = str | CellTokens
Roles = tuple[Role, ...]
Shape = tuple[int, ...]
Axis = tuple[Part | CellTokens, ...]
Axes = tuple[Axis, ...]


def roles_of(axes: Axes) -> Roles:
    """What each axis is when it stands by itself."""
    return tuple(axis_role(axis) for axis in axes)


def whole_axis(name: str, size: int) -> Axis:
    """An axis that runs over all images, rows or columns."""
    return (Part(name, size, 1, size),) if size > 1 else ()


def token_axis(prefix: int, cells: CellTokens) -> Axis:
    """An axis of those cells with that many tokens in front."""
    if prefix:
        return (CellTokens(prefix, cells.height, cells.width),)
    return (*whole_axis("h", cells.height), *whole_axis("w", cells.width))


def unknown_axis(size: int) -> Axis:
    """An axis of which nothing is known."""
    return (Part("", size),) if size > 1 else ()


def axis_length(axis: Axis) -> int:
    """How many numbers an axis has."""
    return math.prod(part.size for part in axis)


def axis_role(axis: Axis) -> Role:
    """What an axis is when it stands by itself."""
    if not axis:
        return "1"
    if isinstance(axis[0], CellTokens):
        return axis[0] if len(axis) == 1 else ""
    names = [part.role for part in axis if isinstance(part, Part) and part.is_complete]
    if len(names) != len(axis):
        return ""
    if names == ["h", "w"]:
        return CellTokens(0, axis[0].size, axis[1].size)
    partial = names == ["n"] and axis[0].step != 1
    return names[0] if len(axis) == 1 and not partial else ""


def broadcast_axes(read: Iterable[Axes], shape: Shape) -> Axes:
    """Axes of a broadcast result, aligned from the last: each is the first known one of its size."""
    result = [unknown_axis(size) for size in shape]
    for axes in read:
        for back in range(1, min(len(axes), len(shape)) + 1):
            if axis_length(axes[-back]) == shape[-back] and result[-back] == unknown_axis(shape[-back]):
                result[-back] = axes[-back]
    return tuple(result)


def matmul_axes(first: Axes | None, second: Axes | None, shape: Shape) -> Axes:
    """Axes of a matrix product: rows of the first factor, columns of the second; None if unknown."""
    stacked = broadcast_axes([axes[:-2] for axes in (first, second) if axes], shape[:-2])
    return (
        *stacked,
        first[-2] if first else unknown_axis(shape[-2]),
        second[-1] if second else unknown_axis(shape[-1]),
    )


def concat_axes(parts: Sequence[Axes | None], axis: int, shape: Shape) -> Axes:
    """Axes of a Concat: tokens may gain others in front; joined rows or columns are unknown.

    Args:
        parts: The axes of what is joined, None where nothing is known.
        axis: Along which it is joined.
        shape: Of what comes out.
    """
    result = list(broadcast_axes([axes for axes in parts if axes is not None], shape))
    result[axis] = unknown_axis(shape[axis])
    along = [() if axes is None else axes[axis] for axes in parts]
    last = axis_role(along[-1])
    if len(along) == 1:
        result[axis] = along[0]
    elif isinstance(last, CellTokens) and not any(
        isinstance(axis_role(one), CellTokens) for one in along[:-1]
    ):
        result[axis] = token_axis(shape[axis] - last.height * last.width, last)
    return tuple(result)


def sliding_axes(before: Axes, shape: Shape, batch: int) -> Axes:
    """Axes behind a convolution or pooling: batch kept, channels unknown, the same or a coarser grid.

    What is slid over a batch of images is a map, whatever was known of the input's cells.
    """
    images, _, *cells = before
    roles = [axis_role(axis) for axis in before[1:]]
    lost = not any(what in SPATIAL or isinstance(what, CellTokens) for what in roles)
    anew = lost and len(shape) == 4 and images == whole_axis("n", batch)
    names = ("h", "w") if anew else ("",) * len(cells)
    result = [images, unknown_axis(shape[1])]
    for name, what, axis, size in zip(names, roles[1:], cells, shape[2:], strict=True):
        if what in SPATIAL or (axis_length(axis) == size and axis != unknown_axis(size)):
            result.append(resize_axis(axis, size))
        else:
            result.append(whole_axis(name, size) if name else unknown_axis(size))
    return tuple(result)


def resize_axis(axis: Axis, size: int) -> Axis:
    """An axis behind padding or interpolation: rows stay rows and columns stay columns."""
    name = axis_role(axis)
    return whole_axis(str(name), size) if name in SPATIAL and axis_length(axis) != size else axis


def reverse_axes(axes: Axes, which: Container[int]) -> Axes:
    """Rows and columns turned round, from last to first, along the axes given."""
    result = []
    for index, axis in enumerate(axes):
        name = str(axis_role(axis))
        if index in which and name in SPATIAL and name != ELSEWHERE:
            axis = whole_axis(name[1:] if name.startswith("-") else f"-{name}", axis_length(axis))
        result.append(axis)
    return tuple(result)


def slice_axes(axes: Axes, starts: Mapping[int, int | None], shape: Shape) -> Axes:
    """Axes of a Slice: rows and columns may be cropped; tokens only lose prefix tokens.

    Args:
        axes: Of what is cut.
        starts: Axis -> first number that is left; None where that is not known, or the order is turned.
        shape: Of what is left.
    """
    result = []
    for index, (axis, new) in enumerate(zip(axes, shape, strict=True)):
        what, old = axis_role(axis), axis_length(axis)
        start = starts.get(index, 0 if old == new else None)
        if start is None:
            result.append(unknown_axis(new))
        elif isinstance(what, CellTokens):
            ahead = what.prefix - start
            fits = ahead >= 0 and new == old - start
            result.append(token_axis(ahead, what) if fits else unknown_axis(new))
        elif old == new:
            result.append(axis)
        else:
            result.append(whole_axis(str(what), new) if what in SPATIAL else unknown_axis(new))
    return tuple(result)


def reduce_axes(axes: Axes, gone: Iterable[int]) -> Axes:
    """What is left when axes are summed away."""
    summed = {axis % len(axes) for axis in gone}
    return tuple(axis for index, axis in enumerate(axes) if index not in summed)


def window_axis(axis: Axis, offsets: int, windows: int) -> tuple[Axis, Axis]:
    """The two axes that windows over an axis make: position in the window, and the window."""
    name = axis_role(axis)
    return unknown_axis(offsets), whole_axis(name, windows) if name in ("h", "w") else unknown_axis(windows)


def reshape_axes(axes: Axes, shape: Shape) -> Axes:
    """Parts taken apart and put together.

    A part spans from the product of the sizes before it to that product with its own size; the parts of a new
    axis are those within its span.
    """
    parts = [part for axis in axes for part in axis]
    spans = list(zip(parts, cumulative_intervals([part.size for part in parts]), strict=True))
    return tuple(slice_parts(spans, start, end) for start, end in cumulative_intervals(shape))


def slice_parts(spans: Sequence[tuple[Part | CellTokens, tuple[int, int]]], start: int, end: int) -> Axis:
    """The parts of the axis that spans from `start` to `end`; unknown where a part cannot be taken apart."""
    result: list[Part | CellTokens] = []
    for part, (first, last) in spans:
        low, high = max(first, start), min(last, end)
        if low >= high:
            continue
        whole = (low, high) == (first, last)
        apart = isinstance(part, Part) and not (low % first or high % low or last % high)
        if not (whole or apart) or low % start or end % high:
            return unknown_axis(end // start)
        if isinstance(part, Part):
            part = Part(part.role, high // low, part.step * (last // high), part.whole)
            before = result[-1] if result else None
            if isinstance(before, Part) and is_contiguous(before, part):
                result[-1] = Part(part.role, before.size * part.size, part.step, part.whole)
                continue
        result.append(part)
    return tuple(result)


def is_contiguous(slow: Part, fast: Part) -> bool:
    """Whether two neighbouring parts are one."""
    if not slow.role:
        return not fast.role
    return (slow.role, slow.whole, slow.step) == (fast.role, fast.whole, fast.step * fast.size)


def cumulative_intervals(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Of each size the product of those before it, and with its own."""
    return pairwise(accumulate(sizes, mul, initial=1))
