"""Shapes found by running: for operators that shape inference does not know."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from camrt.engine.backends import Backend
from camrt.engine.noise import noise
from camrt.errors import BackendError, DeadlineError
from camrt.export.graph import Observer

__all__ = ["observer"]


def observer(runtime: Backend) -> Observer:
    """An observer that runs the whole model once with the unknown tensors as outputs.

    A model that cannot be run so, or does not end within the deadline, teaches nothing: what is asked of it
    then fails on what is known.
    """

    def observe(
        model: onnx.ModelProto, input_shape: tuple[int, ...], names: Sequence[str]
    ) -> dict[str, tuple[tuple[int, ...], int]]:
        tapped = onnx.ModelProto()
        tapped.CopyFrom(model)
        del tapped.graph.output[:]
        tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        pictures = noise(input_shape)
        try:
            values = runtime.runner(tapped, label="model")(pictures)
        except (BackendError, DeadlineError):
            return {}
        return {
            name: (value.shape, helper.np_dtype_to_tensor_dtype(value.dtype))
            for name, value in zip(names, values, strict=True)
            if isinstance(value, np.ndarray)
        }

    return observe
