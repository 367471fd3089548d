"""Which axes of a tensor run over the cells of a map, by following the operators from the picture.

An axis is written as the parts that make up its numbers, the slowest first: an axis of tokens is (h, w), one
of pictures and windows (n, front of h, front of w), one of channels (nothing known). Then

1. a Reshape takes parts apart and puts neighbours together, exactly: windows that are cut out of rows and
   columns, and joined again, give the rows and columns back;
2. Transpose, MatMul, Einsum, Slice, Split, Concat, Gather and the reductions do to the axes what they do to
   the tensor; tokens put in front of those that stand for cells make them a *prefix*;
3. a convolution or a pooling keeps the order of what it slides over;
4. everything else gives each axis of its output what the inputs say of an axis of that size.

Where the cells' order is lost, as in a Swin transformer's shifted windows, nothing is said of an axis until a
skip connection says it again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import mul

from onnx import NodeProto

from camrt.export.graph import Graph, attribute

__all__ = ["CellTokens", "Roles", "cell_axes"]

SLIDING = frozenset(
    {
        "Conv", "ConvTranspose", "FusedConv", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool",
        "GlobalMaxPool", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN",
        "DepthToSpace", "SpaceToDepth", "QLinearConv", "QLinearAveragePool",
    }
)  # fmt: skip
STRETCHING = frozenset({"Pad", "Resize", "Upsample"})
REGROUPING = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
# Put what they read into another order, or their axes are others than their input's.
REORDERING = frozenset(
    {
        "GRU", "GatherElements", "GatherND", "GridSample", "If", "LSTM", "Loop", "NonZero", "RNN",
        "ReverseSequence", "RoiAlign", "Scan", "Shape", "TopK", "Unique",
    }
)  # fmt: skip


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
    """Numbers of an axis that run over pictures, rows or columns.

    Attributes:
        role: "n" the pictures, "h" rows, "w" columns, "" nothing that is known.
        size: How many numbers.
        step: How many pictures, rows or columns one number further is.
        whole: How many of them there are.
    """

    role: str
    size: int
    step: int = 1
    whole: int = 0

    @property
    def foremost(self) -> bool:
        """Whether the numbers run over all of them, in steps, from first to last."""
        return bool(self.role) and self.size * self.step == self.whole


# What an axis is, for those who ask: "n", "h", "w", tokens, "1" for one number alone, or "" for nothing that
# is known.
Role = str | CellTokens
Roles = tuple[Role, ...]
Shape = tuple[int, ...]
Axis = tuple[Part | CellTokens, ...]
Axes = tuple[Axis, ...]


def cell_axes(graph: Graph) -> dict[str, Roles]:
    """What each axis is, of every tensor of known shape that depends on the picture."""
    batch, channels, height, width = graph.input_shape
    found: dict[str, Axes] = {
        graph.input_name: (over("n", batch), unknown(channels), over("h", height), over("w", width))
    }
    for node in graph.nodes:
        if not any(name in found for name in node.input):
            continue
        for position, name in enumerate(node.output):
            shape = graph.shape(name) if name else None
            if shape is not None:
                axes = axes_of(graph, node, position, shape, found)
                found[name] = tuple(
                    axis if length(axis) == size else unknown(size)
                    for axis, size in zip(axes, shape, strict=True)
                )
    return {name: tuple(role(axis) for axis in axes) for name, axes in found.items()}


def over(name: str, size: int) -> Axis:
    """An axis that runs over all pictures, rows or columns."""
    return (Part(name, size, 1, size),) if size > 1 else ()


def behind(prefix: int, cells: CellTokens) -> Axis:
    """An axis of those cells with that many tokens in front."""
    if prefix:
        return (CellTokens(prefix, cells.height, cells.width),)
    return (*over("h", cells.height), *over("w", cells.width))


def unknown(size: int) -> Axis:
    """An axis of which nothing is known."""
    return (Part("", size),) if size > 1 else ()


def length(axis: Axis) -> int:
    """How many numbers an axis has."""
    return math.prod(part.size for part in axis)


def role(axis: Axis) -> Role:
    """What an axis is when it stands by itself."""
    if not axis:
        return "1"
    if isinstance(axis[0], CellTokens):
        return axis[0] if len(axis) == 1 else ""
    names = "".join(part.role for part in axis if isinstance(part, Part) and part.foremost)
    if len(names) != len(axis):
        return ""
    if names == "hw":
        return CellTokens(0, axis[0].size, axis[1].size)
    partial = names == "n" and axis[0].step != 1
    return names if len(axis) == 1 and not partial else ""


def axes_of(graph: Graph, node: NodeProto, position: int, shape: Shape, found: dict[str, Axes]) -> Axes:
    """What the axes of one output of a node are; those of another size than the output's mean nothing."""
    operator = node.op_type
    read = [found[name] for name in node.input if name in found]
    nothing = tuple(unknown(size) for size in shape)
    if operator == "MatMul":
        return multiplied(graph, node, shape, found)
    if operator == "Einsum":
        return summed(graph, node, shape, found)
    if operator == "Concat":
        return joined(graph, node, shape, found)
    first = found.get(node.input[0])
    if operator in REORDERING:
        return nothing
    if first is None:
        return broadcast(read, shape)
    if operator in SLIDING and len(shape) == len(first) > 2:
        return slid(first, shape, graph.input_shape[0])
    if operator in STRETCHING and len(shape) == len(first):
        return tuple(resized(axis, size) for axis, size in zip(first, shape, strict=True))
    if operator == "Gemm":
        return (first[0], unknown(shape[1])) if not attribute(node, "transA", 0) else nothing
    if operator in REGROUPING:
        return regrouped(first, shape)
    if operator == "Transpose":
        return tuple(first[axis] for axis in attribute(node, "perm", range(len(first))[::-1]))
    if operator in ("Slice", "Split"):
        return cut(graph, node, position, first, shape)
    if operator == "Gather":
        axis = attribute(node, "axis", 0) % len(first)
        left = len(shape) - len(first) + 1
        return (*first[:axis], *map(unknown, shape[axis : axis + left]), *first[axis + 1 :])
    if operator.startswith("Reduce") and len(shape) < len(first):
        gone = {axis % len(first) for axis in numbers(graph, node, "axes", 1) or range(len(first))}
        kept = tuple(axis for index, axis in enumerate(first) if index not in gone)
        return kept if len(kept) == len(shape) else nothing
    return broadcast(read, shape)


def broadcast(read: Iterable[Axes], shape: Shape) -> Axes:
    """Axes counted from the last, each what the first input with a known axis of its size says."""
    result = [unknown(size) for size in shape]
    for axes in read:
        for back in range(1, min(len(axes), len(shape)) + 1):
            if length(axes[-back]) == shape[-back] and result[-back] == unknown(shape[-back]):
                result[-back] = axes[-back]
    return tuple(result)


def multiplied(graph: Graph, node: NodeProto, shape: Shape, found: dict[str, Axes]) -> Axes:
    """Rows are those of the first matrix, columns those of the second."""
    if len(shape) < 2 or any(len(graph.shape(name) or ()) < 2 for name in node.input):
        return tuple(unknown(size) for size in shape)
    first, second = (found.get(name) for name in node.input)
    stacked = broadcast([axes[:-2] for axes in (first, second) if axes], shape[:-2])
    return (
        *stacked,
        first[-2] if first else unknown(shape[-2]),
        second[-1] if second else unknown(shape[-1]),
    )


def summed(graph: Graph, node: NodeProto, shape: Shape, found: dict[str, Axes]) -> Axes:
    """Einsum: a letter of the result is the axis that bears it."""
    terms, arrow, letters = attribute(node, "equation", "").replace(" ", "").partition("->")
    named: dict[str, Axis] = {}
    for term, name in zip(terms.split(","), node.input, strict=False):
        if len(term) == len(found.get(name, ())):
            named |= dict(zip(term, found[name], strict=True))
    if not arrow or "." in terms or len(letters) != len(shape):
        return tuple(unknown(size) for size in shape)
    return tuple(named.get(letter, unknown(size)) for letter, size in zip(letters, shape, strict=True))


def joined(graph: Graph, node: NodeProto, shape: Shape, found: dict[str, Axes]) -> Axes:
    """Tokens stay so behind others; of rows and columns that were put together nothing is known."""
    axis = attribute(node, "axis") % len(shape)
    result = list(broadcast([found[name] for name in node.input if name in found], shape))
    result[axis] = unknown(shape[axis])
    along = [found[name][axis] if name in found else () for name in node.input]
    last = role(along[-1])
    if len(along) == 1:
        result[axis] = along[0]
    elif isinstance(last, CellTokens) and not any(isinstance(role(one), CellTokens) for one in along[:-1]):
        result[axis] = behind(shape[axis] - last.height * last.width, last)
    return tuple(result)


def slid(before: Axes, shape: Shape, batch: int) -> Axes:
    """The pictures stay, the channels are new, and the cells are those of the input or a coarser grid.

    What is slid over a batch of pictures is a map, whatever was known of the input's cells.
    """
    pictures, _, *cells = before
    roles = [role(axis) for axis in before[1:]]
    lost = not any(what in ("h", "w") or isinstance(what, CellTokens) for what in roles)
    anew = lost and len(shape) == 4 and pictures == over("n", batch)
    names = ("h", "w") if anew else ("",) * len(cells)
    result = [pictures, unknown(shape[1])]
    for name, what, axis, size in zip(names, roles[1:], cells, shape[2:], strict=True):
        if what in ("h", "w") or (length(axis) == size and axis != unknown(size)):
            result.append(resized(axis, size))
        else:
            result.append(over(name, size) if name else unknown(size))
    return tuple(result)


def resized(axis: Axis, size: int) -> Axis:
    """Rows and columns that were padded or stretched are rows and columns."""
    name = role(axis)
    return over(name, size) if name in ("h", "w") and length(axis) != size else axis


def cut(graph: Graph, node: NodeProto, position: int, axes: Axes, shape: Shape) -> Axes:
    """Rows and columns may be cut short; tokens only at the front, and as far as the cells go."""
    before = tuple(length(axis) for axis in axes)
    starts = split_starts(graph, node, position, before) or slice_starts(graph, node, before)
    result = []
    for index, (axis, old, new) in enumerate(zip(axes, before, shape, strict=True)):
        what, start = role(axis), starts.get(index, 0 if old == new else None)
        if start is None:
            result.append(unknown(new))
        elif isinstance(what, CellTokens):
            ahead = what.prefix - start
            fits = ahead >= 0 and new == old - start
            result.append(behind(ahead, what) if fits else unknown(new))
        elif old == new:
            result.append(axis)
        else:
            result.append(over(what, new) if what in ("h", "w") else unknown(new))
    return tuple(result)


def split_starts(graph: Graph, node: NodeProto, position: int, before: Shape) -> dict[int, int | None]:
    """Axis -> first number taken, of one output of a Split; empty for other nodes."""
    if node.op_type != "Split":
        return {}
    axis = attribute(node, "axis", 0) % len(before)
    sizes = [(graph.shape(name) or before)[axis] for name in node.output]
    return {axis: sum(sizes[:position])}


def slice_starts(graph: Graph, node: NodeProto, before: Shape) -> dict[int, int | None]:
    """Axis -> first number a Slice takes; None where it goes backwards or its start is computed."""
    starts = numbers(graph, node, "starts", 1)
    axes = numbers(graph, node, "axes", 3) or range(len(before if starts is None else starts))
    steps = numbers(graph, node, "steps", 4) or [1] * len(axes)
    if starts is None or len({len(starts), len(axes), len(steps)}) > 1:
        return {axis % len(before): None for axis in axes}
    result: dict[int, int | None] = {}
    for axis, start, step in zip(axes, starts, steps, strict=True):
        size = before[axis % len(before)]
        result[axis % len(before)] = None if step < 0 else min(max(0, start + size * (start < 0)), size)
    return result


def regrouped(axes: Axes, shape: Shape) -> Axes:
    """Parts taken apart and put together.

    A part spans from the product of the sizes before it to that product with its own size; the parts of a new
    axis are those within its span.
    """
    parts = [part for axis in axes for part in axis]
    spans = list(zip(parts, intervals([part.size for part in parts]), strict=True))
    return tuple(within(spans, start, end) for start, end in intervals(shape))


def within(spans: Sequence[tuple[Part | CellTokens, tuple[int, int]]], start: int, end: int) -> Axis:
    """The parts of the axis that spans from `start` to `end`; unknown where a part cannot be taken apart."""
    result: list[Part | CellTokens] = []
    for part, (first, last) in spans:
        low, high = max(first, start), min(last, end)
        if low >= high:
            continue
        whole = (low, high) == (first, last)
        apart = isinstance(part, Part) and not (low % first or high % low or last % high)
        if not (whole or apart) or low % start or end % high:
            return unknown(end // start)
        if isinstance(part, Part):
            part = Part(part.role, high // low, part.step * (last // high), part.whole)
            before = result[-1] if result else None
            if isinstance(before, Part) and continues(before, part):
                result[-1] = Part(part.role, before.size * part.size, part.step, part.whole)
                continue
        result.append(part)
    return tuple(result)


def continues(slow: Part, fast: Part) -> bool:
    """Whether two neighbouring parts are one."""
    if not slow.role:
        return not fast.role
    return (slow.role, slow.whole, slow.step) == (fast.role, fast.whole, fast.step * fast.size)


def intervals(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Of each size the product of those before it, and with its own."""
    return pairwise(accumulate(sizes, mul, initial=1))


def numbers(graph: Graph, node: NodeProto, name: str, position: int) -> list[int] | None:
    """Whole numbers that are an attribute in early operator sets, and an input in later ones."""
    given = attribute(node, name)
    if given is None and len(node.input) > position:
        value = graph.constant(node.input[position])
        given = None if value is None else value.reshape(-1).tolist()
    return None if given is None else [int(number) for number in given]
