"""What a file does to its images by itself, before its first layer.

The nodes behind the input are followed while each is the only one that reads the last:

1. Casts and transposes change nothing that matters here; channels may be put in another order.
2. Sums and products with constants, one number or one a channel (a mean image counts by its means), are
   together x·a + b of each channel. Quantisers, BatchNormalization, and a 1×1 convolution that takes each
   channel by itself, are such steps too.
3. Slices, pads and resizings by constants move the image; see `camrt.export.geometry.spatial_steps`.
4. Anything else is the first layer.

From a and b follows what numbers the file is made for, where they are among the usual: x·a + b is 0 within
that range or near it, and x reaches a few times 1/|a|. Pixels 0 to 255 are divided by 58 (ImageNet's), by
127.5 or 255, or lose a mean alone; numbers 0 to 1 lose a mean about a half and are divided by about a quarter
or a half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto

from camrt.export.allocation import arange, broadcast_to, ones, zeros
from camrt.export.geometry.region import Region
from camrt.export.geometry.spatial_steps import (
    SpatialStep,
    find_only_output,
    find_only_reader,
    read_numbers,
    read_spatial_steps,
    visible_region,
)
from camrt.export.graph.index import Graph, attribute
from camrt.export.rewrites.input_form import is_rounding

__all__ = ["BuiltinPreprocessing", "find_builtin_preprocessing"]

Array = npt.NDArray[Any]
# Where x·a + b may be zero, and what 1/|a| may be.
CHANNELS = "colour channels"
PIXEL_LEVELS = ((-10.0, 265.0), (10.0, 600.0))
MEAN_ONLY_LEVELS = ((20.0, 235.0), (0.5, 10.0))
SIXTEEN_BIT_LEVELS = ((-2000.0, 67000.0), (20000.0, 140000.0))
UNIT_LEVELS = ((0.2, 0.8), (0.0, 0.6))
SIGNED = -128.0  # the least of 8 bits with a sign: pixels are taken 128 lower
ARITHMETIC = ("Add", "Sub", "Mul", "Div", "QuantizeLinear", "DequantizeLinear", "BatchNormalization", "Conv")


@dataclass(frozen=True)
class BuiltinPreprocessing:
    """What a file does before its first layer.

    Attributes:
        spatial_steps: How it moves the image, in order.
        scale: a of x·a + b, one a channel of the input; empty where it leaves numbers alone, or does more.
        shift: b, likewise.
        levels: The lowest and highest number of an image that it is made for, where that can be told.
    """

    spatial_steps: tuple[SpatialStep, ...] = ()
    scale: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()
    levels: tuple[float, float] | None = None

    def region(self, size: tuple[int, int]) -> Region:
        """The part of images (H, W) that the first layer, and with it every map, shows."""
        return visible_region(self.spatial_steps, size)

    def describe(self, size: tuple[int, int] | None) -> str:
        """What it does to images (H, W), in words; empty where it does nothing."""
        parts = []
        if self.scale:
            zeros = [-b / a for a, b in zip(self.scale, self.shift, strict=True)]
            parts.append(f"(x − {format_values(zeros)}) / {format_values([1 / a for a in self.scale])}")
        if self.levels is not None:
            parts.append(f"made for numbers from {self.levels[0]:g} to {self.levels[1]:g}")
        if self.spatial_steps and size is not None:
            left, upper, right, lower = self.region(size).box
            parts.append(f"shows rows {upper:g} to {lower:g} and columns {left:g} to {right:g}")
        elif self.spatial_steps:
            parts.append(" and ".join(dict.fromkeys(move.kind for move in self.spatial_steps)))
        return ", ".join(parts)


def format_values(values: Sequence[float]) -> str:
    """Some numbers, or the one that they all are."""
    texts = [f"{value + 0.0:.4g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else f"({', '.join(texts)})"


@dataclass
class PreprocessingState:
    """What is known of the preprocessing up to some node.

    Attributes:
        name: The tensor.
        axes: Which of the image's axes (N, C, H, W) each of its axes is.
        order: Which of the image's channels each of its channels is.
        scale: a, one a channel of the tensor.
        shift: b, likewise.
        spatial_steps: How the image was moved.
        changed: Whether numbers were changed.
    """

    name: str
    axes: list[int]
    order: npt.NDArray[np.int64]
    scale: Array
    shift: Array
    spatial_steps: list[SpatialStep]
    changed: bool = False


def find_builtin_preprocessing(graph: Graph, element: int = TensorProto.FLOAT) -> BuiltinPreprocessing:
    """What a standardised model does to its images before its first layer.

    Args:
        graph: Its index.
        element: Element type of the file's own input.
    """
    channels = graph.input_shape[1]
    at = PreprocessingState(
        graph.input_name,
        [0, 1, 2, 3],
        arange(channels, CHANNELS),
        ones(channels, CHANNELS),
        zeros(channels, CHANNELS),
        [],
    )
    with np.errstate(all="ignore"):  # constants may be anything; what is not finite is left out below
        while (node := find_only_reader(graph, at.name)) is not None and apply_node(graph, node, at):
            at.name = find_only_output(graph, node) or node.output[0]
    if not at.changed or not np.isfinite([at.scale, at.shift]).all() or not at.scale.all():
        return BuiltinPreprocessing(tuple(at.spatial_steps))
    back = np.argsort(at.order)
    scale, shift = at.scale[back], at.shift[back]
    levels = find_levels(scale, shift, element)
    return BuiltinPreprocessing(
        tuple(at.spatial_steps), tuple(map(float, scale)), tuple(map(float, shift)), levels
    )


def find_levels(scale: Array, shift: Array, element: int) -> tuple[float, float] | None:
    """The numbers that x·a + b is made for, where they are among the usual."""
    zero, unit = -shift / scale, 1 / np.abs(scale)

    def lie(bounds: tuple[tuple[float, float], tuple[float, float]], moved: float = 0.0) -> bool:
        (low, high), (least, most) = bounds
        within = (zero - moved >= low) & (zero - moved <= high) & (unit >= least) & (unit <= most)
        return bool(within.all())

    if element == TensorProto.INT8:
        return (SIGNED, SIGNED + 255) if lie(PIXEL_LEVELS, SIGNED) else None
    if lie(PIXEL_LEVELS) or lie(MEAN_ONLY_LEVELS):
        return 0.0, 255.0
    if lie(SIXTEEN_BIT_LEVELS):
        return 0.0, 65535.0
    return (0.0, 1.0) if lie(UNIT_LEVELS) else None


def apply_node(graph: Graph, node: NodeProto, at: PreprocessingState) -> bool:
    """Adds the effect of one node to the state; False where the node is the first layer."""
    kind = node.op_type
    if node.domain not in ("", "ai.onnx") or (node.input[0] != at.name and kind not in ("Add", "Mul")):
        return False
    if is_rounding(node) or kind in ("Identity", "Cast", "Dropout"):
        return True
    if kind == "Transpose":
        order = attribute(node, "perm", [3, 2, 1, 0])
        if len(order) != len(at.axes):
            return False
        at.axes = [at.axes[axis] for axis in order]
        return True
    if kind in ARITHMETIC:
        found = find_affine(graph, node, at)
        if found is None:
            return False
        at.scale, at.shift = at.scale * found[0], at.shift * found[0] + found[1]
        at.changed = True
        return True
    chosen = find_channel_order(graph, node, at)
    if chosen is not None:
        at.order, at.scale, at.shift = at.order[chosen], at.scale[chosen], at.shift[chosen]
        return True
    shifts = read_spatial_steps(graph, node, at.axes)
    if shifts is None:
        return False
    at.spatial_steps += shifts
    return True


def find_channel_order(graph: Graph, node: NodeProto, at: PreprocessingState) -> npt.NDArray[np.int64] | None:
    """The order that a node puts all channels in; None where it does something else."""
    count, channel = len(at.order), at.axes.index(1)
    chosen: Sequence[float] | None = None
    if node.op_type == "Gather" and attribute(node, "axis", 0) % 4 == channel:
        chosen = read_numbers(graph, node, "indices", 1)
    elif node.op_type == "Slice":
        starts, _, axes, steps = (
            read_numbers(graph, node, name, place)
            for name, place in (("starts", 1), ("ends", 2), ("axes", 3), ("steps", 4))
        )
        if axes is not None and steps == [-1] and [axis % 4 for axis in axes] == [channel] and starts:
            chosen = list(range(count))[int(starts[0]) :: -1]
    if chosen is None or sorted(number % count for number in chosen) != list(range(count)):
        return None
    return np.array([int(number) % count for number in chosen])


def find_affine(graph: Graph, node: NodeProto, at: PreprocessingState) -> tuple[Array, Array] | None:
    """Finds a and b, one a channel, of a node y = x·a + b; None where it is none."""
    count = len(at.order)
    one, none = ones(count, CHANNELS), zeros(count, CHANNELS)
    if node.op_type in ("Add", "Sub", "Mul", "Div"):
        other = next((name for name in node.input if name != at.name), at.name)
        values = per_channel(graph.constant(other), at)
        if values is None or (node.op_type == "Div" and not values.all()):
            return None
        if node.op_type in ("Mul", "Div"):
            return (values if node.op_type == "Mul" else 1 / values), none
        return one, (values if node.op_type == "Add" else -values)
    constants = [graph.constant(name) for name in node.input[1:]]
    known = [np.asarray(value, np.float64) for value in constants if value is not None]
    if len(known) < len(constants):
        return None
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        if any(value.size != 1 for value in known):
            return None
        step, zero = known[0].item(), known[1].item() if len(known) > 1 else 0.0
        back = node.op_type == "DequantizeLinear"
        return (one * step, none - zero * step) if back else (one / step, none + zero)
    if at.axes != [0, 1, 2, 3]:
        return None
    if node.op_type == "BatchNormalization":
        if [value.shape for value in known] != [(count,)] * 4:
            return None
        gain, bias, mean, variance = known
        slope = gain / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        return slope, bias - mean * slope
    return convolution_affine(node, known, count)


def convolution_affine(node: NodeProto, known: Sequence[Array], count: int) -> tuple[Array, Array] | None:
    """Finds a and b of a convolution that gives each channel by itself, in its place."""
    weight, group = known[0], attribute(node, "group", 1)
    if weight.ndim != 4:
        return None
    plain = [*attribute(node, "strides", [1]), *attribute(node, "dilations", [1])]
    if weight.shape != (count, count // group, 1, 1) or any(side != 1 for side in plain):
        return None
    matrix = weight[:, :, 0, 0]
    if any(attribute(node, "pads", [0])) or not (
        group == count or (group == 1 and (matrix == np.diag(np.diag(matrix))).all())
    ):
        return None
    slope = matrix[:, 0] if group == count else np.diag(matrix)
    shift = known[1] if len(known) > 1 else zeros(count, CHANNELS)
    return (slope, shift) if shift.shape == (count,) else None


def per_channel(value: Array | None, at: PreprocessingState) -> Array | None:
    """A constant that meets an image, as one number a channel; over places it is taken by its mean."""
    if value is None or value.ndim > 4 or not value.size or value.dtype.kind not in "fiu":
        return None
    values = value.astype(np.float64).reshape((1,) * (4 - value.ndim) + value.shape)
    channel = at.axes.index(1)
    if values.shape[at.axes.index(0)] != 1:
        return None
    means = values.mean(axis=tuple(place for place in range(4) if place != channel))
    return broadcast_to(means, (len(at.order),), CHANNELS) if len(means) in (1, len(at.order)) else None
