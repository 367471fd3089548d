"""Whether stored weights have the shapes that the layers that read them need.

Shape inference and runtimes leave some of this to the moment when a layer runs. The analysis of a file takes
weights apart before that, so each is looked at once, when the file is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx
from onnx import NodeProto

from camrt.errors import ModelFileError
from camrt.export.graph.index import attribute
from camrt.export.graph.traversal import node_label, normalise_domain
from camrt.export.graph.upkeep import stored_tensors

__all__ = ["check_operands"]

Dims = Sequence[int]
Known = Callable[[int], Dims | None]
_AXES_OF_IMAGES = 2  # batch and channels, before the axes that a window moves along


def check_operands(graph: onnx.GraphProto) -> None:
    """Check the layers of a graph against the weights that are stored for them.

    Args:
        graph: A graph whose nodes have the form of their operators, see `camrt.export.io.schema_checks`.

    Raises:
        ModelFileError: A weight of too few or too many axes, a bias that is not one number a channel, groups
            that do not divide the channels, a window that lacks an axis or has no size, or an order that does
            not name each axis once.
    """
    stored: dict[str, Dims] = {name: tensor.dims for name, tensor in stored_tensors(graph).items()}
    for node in graph.node:
        check = _CHECKS.get(node.op_type)
        if (
            check is not None
            and not normalise_domain(node.domain)
            and (problem := check(node, _dims(node, stored)))
        ):
            raise ModelFileError(f"{node_label(node)} {problem}; export the model again")


def _dims(node: NodeProto, stored: Mapping[str, Dims]) -> Known:
    return lambda place: stored.get(node.input[place]) if place < len(node.input) else None


def _window(node: NodeProto, axes: int | None) -> str:
    """What is wrong with the window of a convolution or a pool, which moves along so many axes."""
    for name, least in (("kernel_shape", 1), ("strides", 1), ("dilations", 1), ("pads", None)):
        values = attribute(node, name)
        if values is None:
            continue
        if least is not None and any(value < least for value in values):
            return f"has {name} {list(values)[:8]}, which must be 1 or more"
        if name == "pads" and len(values) % 2:
            return f"has {len(values)} pads, which must be two an axis"
        along = len(values) // 2 if name == "pads" else len(values)
        axes = along if axes is None else axes
        if along != axes:
            return f"has {name} {list(values)[:8]}, of another number of axes than its window's {axes}"
    return ""


def _convolution(node: NodeProto, known: Known) -> str:
    weight, bias, groups = known(1), known(2), attribute(node, "group", 1)
    if groups < 1:
        return f"has group={groups}, which must be 1 or more"
    if weight is None:
        return _window(node, None)
    axes = len(weight) - _AXES_OF_IMAGES
    if axes < 1:
        return f"has a weight of {len(weight)} axes, {list(weight)}, which must be 3 or more"
    transposed = node.op_type == "ConvTranspose"
    divided = weight[0]  # the output's channels, or of a transposed convolution the input's
    if divided % groups:
        return f"has group={groups}, which does not divide {divided} channels"
    channels = weight[1] * groups if transposed else weight[0]
    if bias is not None and list(bias) != [channels]:
        return f"has a bias of shape {list(bias)} for {channels} channels"
    kernel = attribute(node, "kernel_shape")
    if kernel is not None and list(kernel) != list(weight[2:]):
        return f"has kernel_shape {list(kernel)[:8]}, and a weight of shape {list(weight)}"
    return _window(node, axes)


def _pool(node: NodeProto, _known: Known) -> str:
    return _window(node, None)


def _gemm(node: NodeProto, known: Known) -> str:
    for place, name in enumerate("AB"):
        dims = known(place)
        if dims is not None and len(dims) != 2:
            return f"has a matrix {name} of shape {list(dims)}, which must have two axes"
    weight, bias = known(1), known(2)
    if weight is None or bias is None:
        return ""
    width = weight[0] if attribute(node, "transB", 0) else weight[1]
    if len(bias) > 2 or (bias and bias[-1] not in (1, width)):
        return f"has a bias of shape {list(bias)} for {width} features"
    return ""


def _by_channel(node: NodeProto, known: Known) -> str:
    shapes = [known(place) for place in range(1, len(node.input))]
    given = [list(dims) for dims in shapes if dims is not None]
    if any(len(dims) != 1 for dims in given) or any(dims != given[0] for dims in given):
        return f"has parameters of shapes {given}, which must be one number a channel"
    return ""


def _order(node: NodeProto, _known: Known) -> str:
    order = attribute(node, "perm")
    if order is not None and sorted(order) != list(range(len(order))):
        return f"has perm {list(order)[:8]}, which does not name each axis once"
    return ""


_CHECKS: Mapping[str, Callable[[NodeProto, Known], str]] = {
    "AveragePool": _pool,
    "BatchNormalization": _by_channel,
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Gemm": _gemm,
    "InstanceNormalization": _by_channel,
    "LpPool": _pool,
    "MaxPool": _pool,
    "Transpose": _order,
}
