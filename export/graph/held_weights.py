"""Large weights that lie beside a graph: its copies and parts name them, and do not copy them.

A held weight is an initializer whose data is declared to be external, at a location that is no file's: the
key of an array in this process. The array lives as long as somebody holds it: the indices of graphs that have
the initializer do (`camrt.export.graph.index.Graph`), and so do sessions that read it where it lies.
"""

from __future__ import annotations

import math
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

__all__ = ["HELD_SIZE", "held_weight", "hold_weight", "is_held_type", "tensor_values"]

Array = npt.NDArray[Any]
HELD_SIZE = 1 << 14  # numbers: a smaller weight is not worth the care
LOCATION = "held by camrt, number "

_ARRAYS: WeakValueDictionary[str, Array] = WeakValueDictionary()
_NUMBERS = count()


def is_held_type(tensor: TensorProto) -> bool:
    """Whether a weight is large enough, and of the type, to be held."""
    return bool(tensor.data_type == TensorProto.FLOAT and math.prod(tensor.dims) >= HELD_SIZE)


def hold_weight(tensor: TensorProto, values: Array) -> None:
    """Has an initializer stand for an array, in place.

    Args:
        tensor: The initializer; it keeps its name, type and dimensions.
        values: float32 of its dimensions, contiguous; the caller sees to it that it lives.
    """
    location = f"{LOCATION}{next(_NUMBERS)}"
    _ARRAYS[location] = values
    for field in ("raw_data", "float_data", "external_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="length", value=str(values.nbytes))


def held_weight(tensor: TensorProto) -> Array | None:
    """The array that an initializer stands for; None for one that has its data itself."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return None
    location = next(entry.value for entry in tensor.external_data if entry.key == "location")
    return _ARRAYS[location]


def tensor_values(tensor: TensorProto) -> Array:
    """The numbers of an initializer, wherever they lie; those that are held are not to be written."""
    held = held_weight(tensor)
    return np.asarray(numpy_helper.to_array(tensor)) if held is None else held


def hold_weights(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Array]]:
    """A copy of a standardised model whose large weights are held, and their arrays."""
    light = copy_without_weights(model)
    arrays = []
    for tensor in model.graph.initializer:
        if not is_held_type(tensor):
            light.graph.initializer.append(tensor)
            continue
        arrays.append(np.ascontiguousarray(numpy_helper.to_array(tensor)))
        hold_weight(
            light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims),
            arrays[-1],
        )
    return light, arrays


def copy_without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A standardised model, without its initializers."""
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.metadata_props.extend(model.metadata_props)
    light.graph.name = model.graph.name
    for field in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(light.graph, field).extend(getattr(model.graph, field))
    return light
