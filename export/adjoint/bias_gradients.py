"""What the biases of a model contribute to its answer, in the graph of its gradient.

A network that is linear in pieces is homogeneous in its image and its biases together:
f(x) = x·∂f/∂x + Σ_b b·∂f/∂b, over every bias b of every layer. The gradient with respect to a bias that is
added to a tensor is that tensor's cotangent, which the way back to the image makes anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from camrt.export.adjoint.backward_pass import BackwardPass
from camrt.export.adjoint.registry import BiasScaling
from camrt.export.geometry.axis_parts import Roles
from camrt.export.geometry.axis_roles import find_axis_roles
from camrt.export.graph.index import Graph, attribute
from camrt.export.graph.node_maker import TO_THE_END, NodeMaker
from camrt.export.rewrites.input_form import IMAGES

__all__ = ["BIAS_EPSILONS", "BIAS_MAP", "bias_products", "find_bias", "make_bias_map"]

Array = npt.NDArray[Any]
BIAS_MAP = "camrt_bias_map"
BIAS_EPSILONS: dict[BiasScaling, float] = {"paper": 0.0, "grad-cam": 1e-7, "authors": 1e-6}
"""What is added to what they are divided by."""
BY_CHANNEL = frozenset({"Conv", "ConvTranspose", "InstanceNormalization", "GroupNormalization"})


def find_bias(graph: Graph, node: NodeProto) -> Array | None:
    """What a node adds to something linear in its input, broadcasting to its output; None for nothing."""
    if node.op_type in ("Add", "Sub"):
        fixed = [graph.constant(name) for name in node.input]
        known = [value.astype(np.float64) for value in fixed if value is not None]
        if len(known) != 1:
            return None
        return -known[0] if node.op_type == "Sub" and fixed[1] is not None else known[0]
    if node.op_type == "BatchNormalization":
        parts = [graph.constant(name) for name in node.input[1:5]]
        if any(part is None for part in parts):
            return None
        scale, shift, average, variance = (np.asarray(part, np.float64) for part in parts)
        slope = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        return by_channel(graph, node, shift - average * slope)
    value = graph.constant(node.input[2]) if len(node.input) > 2 else None
    if value is None:
        return None
    wide = value.astype(np.float64)
    if node.op_type in BY_CHANNEL:
        return by_channel(graph, node, wide)
    if node.op_type == "Gemm":
        return wide * float(attribute(node, "beta", 1.0))
    return wide if node.op_type == "LayerNormalization" else None


def by_channel(graph: Graph, node: NodeProto, values: Array) -> Array:
    """One number a channel, along the second axis of a node's output."""
    shape = graph.shape(node.output[0])
    assert shape is not None
    return values.reshape(-1, *[1] * (len(shape) - 2))


def bias_products(walk: BackwardPass, nodes: Sequence[NodeProto]) -> list[tuple[NodeProto, Array, str]]:
    """Each node with a bias, the bias, and the tensor of bias times cotangent."""
    found = []
    for node in nodes:
        bias = find_bias(walk.graph, node) if walk.cotangents.get(node.output[0]) else None
        if bias is not None:
            cotangent = walk.cotangent(node.output[0])
            assert cotangent is not None
            found.append((node, bias, walk.make.add("Mul", cotangent, walk.make.constant(bias))))
    return found


def make_bias_map(walk: BackwardPass, nodes: Sequence[NodeProto], scaling: BiasScaling) -> str:
    """The tensor (N, H, W) of all layers' magnitudes, each brought to [0, 1] and to the image's size, summed.

    Of layers whose output (N, C, h, w), in whichever order, has cells of the image, and that mix no channels
    of a cell to normalise them. A single number that is added is part of an activation function.

    Args:
        walk: The way back to the image, which is done.
        nodes: The nodes it went through.
        scaling: How they are brought to [0, 1].
    """
    make, roles = walk.make, find_axis_roles(walk.graph)
    maps = [
        layer_map(make, product, axes, scaling)
        for node, bias, product in bias_products(walk, nodes)
        if node.op_type != "LayerNormalization" and (node.op_type not in ("Add", "Sub") or bias.size > 1)
        if is_map(axes := roles.get(node.output[0], ()))
    ]
    cells = make.add("Gather", make.shape_of(IMAGES), make.indices([0, 2, 3]), axis=0)
    return make.add("Reshape", make.add("Sum", *maps), cells) if maps else make.zeros(cells)


def is_map(axes: Roles) -> bool:
    """Whether a tensor's axes are images, and in some order channels, rows and columns."""
    names = [str(axis).lstrip("-") for axis in axes]
    return len(names) == 4 and names[0] == "n" and {"h", "w"} <= set(names)


def layer_map(make: NodeMaker, product: str, axes: Roles, scaling: BiasScaling) -> str:
    """One layer's part of the map, (N, 1, H, W)."""
    names = [str(axis) for axis in axes]
    places = {name.lstrip("-"): place for place, name in enumerate(names)}
    (channels,) = {1, 2, 3} - {places["h"], places["w"]}
    magnitude = make.add("Abs", product)
    over = [1, 2, 3] if scaling == "authors" else sorted((places["h"], places["w"]))
    low = make.reduce("ReduceMin", magnitude, over, keepdims=True)
    spread = make.add("Sub", make.reduce("ReduceMax", magnitude, over, keepdims=True), low)
    above = make.add("Sub", magnitude, low)
    epsilon = BIAS_EPSILONS[scaling]
    if epsilon:
        scaled = make.add("Div", above, make.add("Add", spread, make.number(epsilon)))
    else:
        scaled = make.divide_or_zero(make.add("Div", above, spread), spread)
    summed = make.reduce_sum(scaled, [channels], keepdims=True)
    upright = make.transpose(summed, [0, channels, places["h"], places["w"]])
    mirrored = [place for place, name in ((2, "-h"), (3, "-w")) if name in names]
    if mirrored:
        count = len(mirrored)
        upright = make.slice(upright, [-1] * count, [-TO_THE_END] * count, mirrored, [-1] * count)
    sizes = make.concat(
        [make.slice(make.shape_of(upright), [0], [2], [0]), make.slice(make.shape_of(IMAGES), [2], [4], [0])],
        0,
    )
    places_by = "align_corners" if scaling == "authors" else "half_pixel"
    return make.add("Resize", upright, "", "", sizes, mode="linear", coordinate_transformation_mode=places_by)
