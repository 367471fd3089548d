"""Shapes found by running: for operators that shape inference does not know."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from camrt.engine.noise import normal_noise
from camrt.engine.runtime import Backend
from camrt.errors import BackendError
from camrt.export.graph.index import ShapeObserver
from camrt.export.graph.upkeep import drop_unused

__all__ = ["make_shape_observer"]


def make_shape_observer(runtime: Backend) -> ShapeObserver:
    """An observer that runs what makes the unknown tensors, with their shapes as outputs.

    Tensors themselves are outputs only where their element type is not known either: all of them together
    would fill the memory. It returns no shapes for a model that cannot be run; later steps then use the
    inferred ones.
    """

    def observe(
        model: onnx.ModelProto, input_shape: tuple[int, ...], unknown: Mapping[str, int | None]
    ) -> dict[str, tuple[tuple[int, ...], int]]:
        tapped = onnx.ModelProto()
        tapped.CopyFrom(model)
        del tapped.graph.output[:]
        for number, (name, element) in enumerate(unknown.items()):
            shown = name if element is None else f"camrt_shape_{number}"
            if element is not None:
                tapped.graph.node.append(helper.make_node("Shape", [name], [shown]))
            tapped.graph.output.append(onnx.ValueInfoProto(name=shown))
        drop_unused(tapped)
        try:
            values = runtime.make_runner(tapped, label="model")(normal_noise(input_shape))
        except BackendError:
            return {}
        found = {}
        for (name, element), value in zip(unknown.items(), values, strict=True):
            if element is not None:
                found[name] = (tuple(value.tolist()), element)
            elif isinstance(value, np.ndarray):
                found[name] = (value.shape, helper.np_dtype_to_tensor_dtype(value.dtype))
        return found

    return observe
