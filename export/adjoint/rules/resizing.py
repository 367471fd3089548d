"""Interpolation: along each axis a product with a constant matrix, so x̄ = Rᵀ·ȳ along each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from camrt.export.adjoint.steps import Step, rule
from camrt.export.graph import evaluate_node

__all__: list[str] = []

Array = npt.NDArray[Any]


@rule("Resize", "Upsample")
def _resize(step: Step) -> Sequence[str | None]:
    before, after = step.shape(step.x), step.shape(step.y)
    if not step.fixed_size:
        raise step.refuse("how it interpolates depends on the pictures' size; export it with a fixed size")
    if step.attribute("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise step.refuse("cropping while resizing has no rule")
    if step.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise step.refuse("keeping the aspect ratio has no rule")
    if before[:2] != after[:2]:
        raise step.refuse("only height and width may change")
    make, g = step.make, step.g
    rank = len(before)
    for axis in range(2, rank):
        if before[axis] == after[axis]:
            continue
        matrix = interpolation(step, axis, before[axis], after[axis], rank)
        order = [*(other for other in range(rank) if other != axis), axis]
        moved = make.add("MatMul", make.transpose(g, order), make.constant(matrix))
        g = make.transpose(moved, [int(place) for place in np.argsort(order)])
    return [make.add("Identity", g)]


def interpolation(step: Step, axis: int, before: int, after: int, rank: int) -> Array:
    """R (after, before) along an axis: what the node makes of unit vectors."""
    shape = [1] * rank
    shape[0], shape[axis] = before, before
    units = np.eye(before, dtype=np.float32).reshape(shape)
    node = NodeProto()
    node.CopyFrom(step.node)
    del node.input[:]
    feeds: dict[str, Array] = {"units": units}
    node.input.append("units")
    scales = [1.0] * rank
    found = next(
        (
            value
            for index in (1, 2)
            if step.input(index)
            and (value := step.constant(step.input(index))) is not None
            and value.dtype.kind == "f"
            and len(value) == rank
        ),
        None,
    )
    stated = step.attribute("scales")
    scales[axis] = (
        float(found[axis]) if found is not None else float(stated[axis]) if stated else after / before
    )
    if step.node.op_type == "Upsample" or step.make.opset == 10:
        feeds["scales"] = np.asarray(scales, np.float32)
        node.input.append("scales")
    elif found is not None:
        feeds["scales"] = np.asarray(scales, np.float32)
        node.input.extend(["", "scales"])
    else:
        wanted = list(units.shape)
        wanted[axis] = after
        feeds["sizes"] = np.asarray(wanted, np.int64)
        node.input.extend(["", "", "sizes"])
    for item in [item for item in node.attribute if item.name in ("axes", "antialias")]:
        if item.name == "antialias" and item.i:
            raise step.refuse("antialiasing has no rule")
        node.attribute.remove(item)
    made = evaluate_node(step.graph.model, node, feeds)[0]
    return made.reshape(before, after).T.astype(np.float64)
