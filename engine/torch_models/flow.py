"""A pass of a torch module as the steps from the images to the logits, see `camrt.export.heads.flow`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from camrt.engine.torch_models.axes import (
    REDUCING,
    REGROUPING,
    SAVED_VALUE_ERRORS,
    GradientEdge,
    axes_of,
    operation_name,
    reduced_axes,
    shapes_of,
)
from camrt.export.geometry.axis_parts import (
    Axes,
    Roles,
    Shape,
    axis_length,
    roles_of,
    unknown_axis,
    whole_axis,
)
from camrt.export.heads.flow import Flow, Kind, Operation

__all__ = ["AutogradTrace", "trace_autograd"]

LEARNED = frozenset(
    {
        "Addmm", "Baddbmm", "Bmm", "Convolution", "CudnnBatchNorm", "CudnnConvolution", "Linear",
        "MiopenBatchNorm", "MiopenConvolution", "MkldnnConvolution", "Mm", "NativeBatchNorm",
        "NativeLayerNorm",
    }
)  # fmt: skip
AVERAGING = ("AdaptiveAvgPool", "AvgPool")
BY_CHANNEL = frozenset(
    {
        "Abs", "Celu", "Clamp", "ClampMax", "ClampMin", "CudnnBatchNorm", "Elu", "Erf", "Exp", "Gelu",
        "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyRelu", "Log", "MiopenBatchNorm", "Mish",
        "NativeBatchNorm", "Neg", "PreluKernel", "Reciprocal", "Relu", "Sigmoid", "Silu", "Softplus", "Sqrt",
        "Tanh", "Threshold",
    }
)  # fmt: skip
KEEPING = frozenset({"Alias", "Clone", "Contiguous", "ToCopy"})
MOVING = REGROUPING | {"Permute", "T", "Transpose"}


@dataclass(frozen=True)
class AutogradTrace:
    """What autograd recorded of a pass.

    Attributes:
        flow: The steps.
        roles: What each axis is, of every tensor that depends on the images and whose shape is known.
        shapes: The shapes of those tensors.
        batch: Number of images.
    """

    flow: Flow[GradientEdge]
    roles: Mapping[GradientEdge, Roles]
    shapes: Mapping[GradientEdge, Shape]
    batch: int


def trace_autograd(logits: torch.Tensor, leaf: torch.Tensor) -> AutogradTrace:
    """The steps from a leaf, images (N, C, H, W), to logits; none where those have no gradient."""
    batch, channels, height, width = leaf.shape
    nodes = [] if logits.grad_fn is None else sort_nodes(logits.grad_fn)[::-1]
    start = next(((node, 0) for node in nodes if getattr(node, "variable", None) is leaf), (None, 0))
    axes: dict[GradientEdge, Axes] = {
        start: (
            whole_axis("n", batch),
            unknown_axis(channels),
            whole_axis("h", height),
            whole_axis("w", width),
        )
    }
    shapes: dict[GradientEdge, Shape] = {start: tuple(leaf.shape)}
    roles: dict[GradientEdge, Roles] = {start: roles_of(axes[start])}
    depending = {start[0]}
    steps = []
    for node in nodes:
        reads = tuple(
            place for place in node.next_functions if place[0] in depending and place[0] is not None
        )
        if not reads:
            continue
        depending.add(node)
        made = shapes_of(node)
        makes = tuple((node, number) for number in range(max(1, len(made))))
        for place, shape in zip(makes, made, strict=False):
            found = axes_of(node, place[1], shape, axes, batch)
            axes[place] = tuple(
                axis if axis_length(axis) == size else unknown_axis(size)
                for axis, size in zip(found, shape, strict=True)
            )
            shapes[place], roles[place] = shape, roles_of(axes[place])
        spread = tuple(read for read in reads if len(shapes.get(read, ())) > 2)
        name = operation_name(node)
        how = cell_mixing(node, name, spread, shapes, roles)
        steps.append(Operation(reads, makes, step_kind(node, name), has_weights(name), spread, how))
    end = (logits.grad_fn, logits.output_nr) if nodes else (logits, 0)
    return AutogradTrace(Flow(steps, start, end), roles, shapes, batch)


def has_weights(name: str) -> bool:
    """Whether an operation multiplies by something."""
    return name in LEARNED or name.startswith("ScaledDotProduct")


def step_kind(node: Any, name: str) -> Kind:
    """What a node did to the first tensor it read."""
    if name in KEEPING:
        return "keeps"
    if name in MOVING:
        return "reshapes"
    if name.startswith(AVERAGING):
        return "averages"
    if name in BY_CHANNEL:
        return "by-channel"
    if name == "Convolution":
        try:
            return "pointwise" if tuple(node._saved_weight.shape[2:]) == (1, 1) else "other"
        except SAVED_VALUE_ERRORS:
            return "other"
    if name in ("Addmm", "Linear", "Mm"):
        return "linear"
    return "shifts" if name == "Add" else "other"


def cell_mixing(
    node: Any,
    name: str,
    spread: Sequence[GradientEdge],
    shapes: Mapping[GradientEdge, Shape],
    roles: Mapping[GradientEdge, Roles],
) -> Literal["", "always", "pairs"]:
    """Whether a node takes several cells together."""
    if name in ("Baddbmm", "Bmm") or name.startswith("ScaledDotProduct"):
        return "pairs"
    if name.startswith(AVERAGING):
        return "always"
    if not spread:
        return ""
    shape, after = shapes[spread[0]], shapes.get((node, 0), ())
    gone: Sequence[int] = ()
    if name in REDUCING:
        gone = reduced_axes(node, len(shape))
    elif name in REGROUPING and len(after) == 2 and after[0] == shape[0]:
        gone = range(1, len(shape))
    known = roles[spread[0]]
    return "always" if any(known[axis] not in ("", "n", "1") for axis in gone) else ""


def sort_nodes(end: Any) -> list[Any]:
    """The nodes behind `end`, each before those it was computed from."""
    finished: list[Any] = []
    seen = {end}
    stack = [(end, iter(end.next_functions))]
    while stack:
        node, rest = stack[-1]
        for before, _ in rest:
            if before is not None and before not in seen:
                seen.add(before)
                stack.append((before, iter(before.next_functions)))
                break
        else:
            finished.append(node)
            stack.pop()
    return finished[::-1]
