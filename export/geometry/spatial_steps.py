"""Crops, pads and resizings of an image by constants: where the pixels of the next tensor lie in it.

Each is x = origin + step·x' along an axis: pixels of the image x against those of the next tensor x', the
middle of pixel k at k + 1/2. Zeros that a layer's own kernel needs, which a Pad in front of a convolution or
pool adds where it is narrower than the kernel, are that layer's affair and no shift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from camrt.export.geometry.region import Region
from camrt.export.graph.index import Graph, attribute

__all__ = [
    "SpatialStep",
    "find_only_output",
    "find_only_reader",
    "is_evenly_spaced",
    "read_numbers",
    "read_spatial_steps",
    "visible_region",
]

HEIGHT, WIDTH = 2, 3
LAYERS = ("Conv", "MaxPool", "AveragePool")
MAX_PIXELS = float(1 << 30)  # what no length or scale of an image reaches
PASSING = (  # leave every number in its place
    *("Cast", "Identity", "Dropout", "Transpose", "QuantizeLinear", "DequantizeLinear"),
    *("Add", "Sub", "Mul", "Div", "BatchNormalization"),
)
SLICE_INPUTS = {"starts": 1, "ends": 2, "axes": 3, "steps": 4}
CENTRED = ("half_pixel", "pytorch_half_pixel")


@dataclass(frozen=True)
class SpatialStep:
    """One step along one axis of the image.

    Attributes:
        axis: 2 for rows, 3 for columns.
        kind: What it is.
        numbers: Of "crop" (start, end, step), as in ONNX's Slice; of "pad" (before, after); of "resize"
            (scale,), or (0, length) where the length is stated.
        coordinates: Of "resize", ONNX's name of which pixels correspond.
    """

    axis: int
    kind: Literal["crop", "pad", "resize"]
    numbers: tuple[float, ...]
    coordinates: str = "half_pixel"

    def apply(self, length: int) -> tuple[int, float, float]:
        """For an axis of some length: that of the next tensor, and origin and step."""
        if self.kind == "crop":
            start, end, jump = (int(number) for number in self.numbers)
            # ONNX writes "to the first pixel, backwards" as an end far below zero, Python as none.
            chosen = range(length)[slice(start, None if jump < 0 and end < -length else end, jump)]
            first = chosen[0] if chosen else 0
            return len(chosen), first + 0.5 - jump / 2, float(jump)
        if self.kind == "pad":
            before, after = (int(number) for number in self.numbers)
            return length + before + after, -float(before), 1.0
        scale = self.numbers[0]
        after = int(np.floor(length * scale)) if scale else int(self.numbers[1])
        step = 1 / scale if scale else length / max(after, 1)
        if self.coordinates in CENTRED:
            return after, 0.0, step
        if self.coordinates == "half_pixel_symmetric":
            return after, (length - after * step) / 2, step
        if self.coordinates == "align_corners":
            step = (length - 1) / (after - 1) if after > 1 else 0.0
        return after, 0.5 - step / 2, step

    @property
    def is_identity(self) -> bool:
        """Whether it moves nothing, whatever the length."""
        nothing = {"crop": None, "pad": (0.0, 0.0), "resize": (1.0,)}[self.kind]
        return self.numbers == nothing


def visible_region(steps: Sequence[SpatialStep], size: tuple[int, int]) -> Region:
    """The part of images (H, W) that is left of them behind some steps."""
    lengths, found = {HEIGHT: size[0], WIDTH: size[1]}, {HEIGHT: (0.0, 1.0), WIDTH: (0.0, 1.0)}
    for move in steps:
        lengths[move.axis], origin, step = move.apply(lengths[move.axis])
        before, stride = found[move.axis]
        found[move.axis] = (before + stride * origin, stride * step)
    (upper, rows), (left, columns) = found[HEIGHT], found[WIDTH]
    return Region(left, upper, left + columns * lengths[WIDTH], upper + rows * lengths[HEIGHT])


def read_spatial_steps(graph: Graph, node: NodeProto, axes: Sequence[int]) -> list[SpatialStep] | None:
    """The steps that a node takes.

    Args:
        graph: Index of its graph.
        node: It reads the image as its first input.
        axes: Which of the image's axes (N, C, H, W) each of its axes is.

    Returns:
        None where it is none of these operators, its numbers are not constant, or it changes other axes.
    """
    kinds = {
        "Gather": read_gather,
        "Pad": read_pad,
        "Resize": read_resize,
        "Slice": read_slice,
        "Split": read_split,
        "Upsample": read_resize,
    }
    found = kinds[node.op_type](graph, node) if node.op_type in kinds else None
    if found is None:
        return None
    placed = [(axes[axis % 4], shift) for axis, shift in found]
    shifts = [
        SpatialStep(axis, shift.kind, shift.numbers, shift.coordinates)
        for axis, shift in placed
        if not shift.is_identity
    ]
    return shifts if all(shift.axis in (HEIGHT, WIDTH) for shift in shifts) else None


def read_numbers(graph: Graph, node: NodeProto, name: str, place: int) -> list[float] | None:
    """Numbers that older operator sets keep in an attribute, newer ones in an input; none where left out.

    Returns:
        None where they are computed from the image.
    """
    stated = attribute(node, name)
    if stated is not None:
        return list(stated)
    if len(node.input) <= place or not node.input[place]:
        return []
    value = graph.constant(node.input[place])
    return None if value is None else [number.item() for number in np.ravel(value)]


def find_only_reader(graph: Graph, name: str) -> NodeProto | None:
    """The node that reads a tensor, where there is one alone; nodes that ask for its shape do not count."""
    readers = [graph.nodes[index] for index in graph.consumers[name]]
    readers = [node for node in readers if node.op_type not in ("Shape", "Size")]
    return readers[0] if len(readers) == 1 else None


def read_slice(graph: Graph, node: NodeProto) -> list[tuple[int, SpatialStep]] | None:
    """The crops of a Slice, each with its axis."""
    given = [read_numbers(graph, node, name, place) for name, place in SLICE_INPUTS.items()]
    if any(numbers is None for numbers in given):
        return None
    starts, ends, axes, steps = (numbers or [] for numbers in given)
    axes, steps = axes or list(range(len(starts))), steps or [1.0] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or not all(steps):
        return None  # it is damaged
    rows = zip(starts, ends, axes, steps, strict=True)
    return [(int(axis), SpatialStep(0, "crop", (start, end, step))) for start, end, axis, step in rows]


def read_gather(graph: Graph, node: NodeProto) -> list[tuple[int, SpatialStep]] | None:
    """The crop of a Gather whose indices are evenly spaced, with its axis."""
    indices = graph.constant(node.input[1])
    if indices is None or not is_evenly_spaced(indices) or indices.min() < 0:
        return None
    first, second, last = (int(indices[place]) for place in (0, 1, -1))
    step = second - first
    # one beyond the last; far below zero where that is before the first pixel
    end = last + int(np.sign(step)) if last or step > 0 else -int(MAX_PIXELS)
    return [(int(attribute(node, "axis", 0)), SpatialStep(0, "crop", (first, end, step)))]


def is_evenly_spaced(indices: npt.NDArray[Any]) -> bool:
    """Whether indices are a vector of two or more different numbers, each as far from the next."""
    steps = np.diff(indices) if indices.ndim == 1 else np.zeros(0)
    return bool(steps.size and steps[0] and (steps == steps[0]).all())


def read_split(graph: Graph, node: NodeProto) -> list[tuple[int, SpatialStep]] | None:
    """The crop that one output of a Split is, where no other is read and lengths are stated."""
    sizes, made = read_numbers(graph, node, "split", 1), find_only_output(graph, node)
    if not sizes or made is None or len(sizes) != len(node.output):
        return None
    place = list(node.output).index(made)
    start = sum(sizes[:place])
    return [(int(attribute(node, "axis", 0)), SpatialStep(0, "crop", (start, start + sizes[place], 1.0)))]


def find_only_output(graph: Graph, node: NodeProto) -> str | None:
    """The output of a node that is read, where there is one alone."""
    read = [name for name in node.output if name and graph.consumers[name]]
    return read[0] if len(read) == 1 else None


def read_pad(graph: Graph, node: NodeProto) -> list[tuple[int, SpatialStep]] | None:
    """The pads of a Pad, each with its axis; none where they belong to the layer behind it."""
    pads, axes = read_numbers(graph, node, "pads", 1), read_numbers(graph, node, "axes", 3)
    if pads is None or axes is None:
        return None
    count = len(pads) // 2
    if len(pads) != 2 * len(axes or range(4)):
        return None  # it is damaged
    behind = find_only_reader(graph, node.output[0])
    while behind is not None and behind.op_type in PASSING:
        behind = find_only_reader(graph, behind.output[0])
    own = behind is not None and behind.op_type in LAYERS and min(pads, default=0.0) >= 0  # less is a crop
    if own and behind is not None and max(pads) < kernel_extent(graph, behind):
        return []
    rows = zip(axes or range(count), pads[:count], pads[count:], strict=True)
    return [(int(axis), SpatialStep(0, "pad", (float(before), float(after)))) for axis, before, after in rows]


def kernel_extent(graph: Graph, layer: NodeProto) -> int:
    """How many pixels a layer's kernel spans, along its shorter side."""
    kernel = attribute(layer, "kernel_shape")
    if kernel is None:
        weight = graph.shape(layer.input[1])
        kernel = weight[2:] if weight is not None else [1]
    spread = attribute(layer, "dilations", [1] * len(kernel))
    return min(int((side - 1) * gap + 1) for side, gap in zip(kernel, spread, strict=True))


def read_resize(graph: Graph, node: NodeProto) -> list[tuple[int, SpatialStep]] | None:
    """The resizings of a Resize or Upsample, each with its axis."""
    old = node.op_type == "Upsample" or len(node.input) == 2
    scales = read_numbers(graph, node, "scales", 1 if old else 2)
    sizes = [] if old else read_numbers(graph, node, "sizes", 3)
    coordinates = "asymmetric" if old else attribute(node, "coordinate_transformation_mode", "half_pixel")
    if scales is None or sizes is None or coordinates == "tf_crop_and_resize":
        return None
    if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    if attribute(node, "mode", "nearest") == "nearest":  # a pixel becomes several, or is one of several
        coordinates = "half_pixel"
    numbers: list[tuple[float, ...]] = [(scale,) for scale in scales] or [(0.0, length) for length in sizes]
    axes = attribute(node, "axes", range(len(numbers)))
    shape = graph.shape(node.input[0])
    if len(axes) != len(numbers) or shape is None or not all(0 < each[-1] < MAX_PIXELS for each in numbers):
        return None
    found = []
    for axis, each in zip(axes, numbers, strict=True):
        same = len(each) == 2 and axis % 4 < 2 and each[1] == shape[axis % 4]
        found.append((int(axis), SpatialStep(0, "resize", (1.0,) if same else each, coordinates)))
    return found
