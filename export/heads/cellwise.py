"""φ: the part of a head that acts on each cell of the map by itself."""

from __future__ import annotations

from onnx import NodeProto

from camrt.export.graph.index import Graph, attribute, opset
from camrt.export.graph.operators import (
    CHANNEL_MIXING,
    COMPARING,
    ELEMENTWISE_BINARY,
    ELEMENTWISE_UNARY,
    QUANTISERS,
    preserves_values,
)
from camrt.export.heads.affine import is_spatially_constant

__all__ = ["find_cellwise_region"]


def find_cellwise_region(graph: Graph, start: str, nodes: list[NodeProto]) -> dict[str, bool]:
    """The tensors of a head that depend, at each cell, on nothing but the same cell of `start`.

    Returns:
        Tensor name -> whether each of its channels depends on the same channel of `start` alone
        (*separable*), in graph order, `start` first.
    """
    region = {start: True}
    channels = (graph.shape(start) or (0, 0))[1]
    for node in nodes:
        if not any(name in region for name in node.input):
            continue
        separable = check_cellwise(graph, node, region)
        shape = graph.shape(node.output[0]) or ()
        if separable is not None and len(shape) == 4:
            region[node.output[0]] = separable and shape[1] == channels
    return region


def check_cellwise(graph: Graph, node: NodeProto, region: dict[str, bool]) -> bool | None:
    """Whether a node is separable; None when it is not cell by cell."""
    moving = [name for name in node.input if name and not graph.is_constant(name)]
    fixed = [name for name in node.input if name and graph.is_constant(name)]
    if any(name not in region for name in moving):
        return None
    separable = all(region[name] for name in moving)
    operator = node.op_type
    if operator == "Conv":
        return check_pointwise_convolution(graph, node, separable)
    if operator == "BatchNormalization":
        return None if attribute(node, "training_mode", 0) else separable
    if preserves_values(node):
        return separable
    if operator in QUANTISERS:
        scale = graph.shape(node.input[1])
        by_channel = attribute(node, "axis", 1) == 1 and not attribute(node, "block_size", 0)
        return separable if scale in ((), (1,)) or by_channel else None
    if operator in ELEMENTWISE_UNARY | ELEMENTWISE_BINARY | COMPARING:
        constants = [graph.constant(name) for name in fixed]
        if any(value is None or not is_spatially_constant(value) for value in constants):
            return None
        shapes = {graph.shape(name) for name in moving}
        spatial = {shape[2:] for shape in shapes if shape is not None}
        return (separable and len(shapes) == 1) if len(spatial) == 1 else None
    if operator in CHANNEL_MIXING:
        if operator.endswith("Softmax") and opset(graph.model) < 13:
            return None  # over the channels and the cells, as one axis
        return False if attribute(node, "axis", -1) in (1, -3) and not fixed else None
    return None


def check_pointwise_convolution(graph: Graph, node: NodeProto, separable: bool) -> bool | None:
    """A 1×1 convolution with stride 1, padded or not; separable when it is depthwise."""
    weight = graph.shape(node.input[1])
    if weight is None or weight[2:] != (1, 1) or not graph.is_constant(node.input[1]):
        return None
    pads = list(attribute(node, "pads", [0, 0, 0, 0]))
    if any(stride != 1 for stride in attribute(node, "strides", [1, 1])) or pads[:2] != pads[2:]:
        return None
    depthwise = weight[1] == 1 and attribute(node, "group", 1) == weight[0]
    return separable and depthwise
