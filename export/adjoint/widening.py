"""Bringing every floating-point tensor of a graph to one type."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from camrt.export.operators import FLOATING

__all__ = ["widen"]


def widen(model: onnx.ModelProto, element: int) -> None:
    """Rewrites a graph in place so that all its floating-point tensors have type `element`.

    A gradient that passes through many layers leaves float16's range long before the logits do.

    Args:
        model: A graph of its own, with no subgraphs on the way that fix a type.
        element: The type (`onnx.TensorProto` constant).
    """
    dtype = helper.tensor_dtype_to_np_dtype(element)
    for tensor in model.graph.initializer:
        convert(tensor, dtype, element)
    for node in model.graph.node:
        for item in node.attribute:
            if item.name in ("to", "dtype") and item.type == onnx.AttributeProto.INT and item.i in FLOATING:
                item.i = element
            elif item.type == onnx.AttributeProto.TENSOR:
                convert(item.t, dtype, element)
    for value in [*model.graph.input, *model.graph.output]:
        if value.type.tensor_type.elem_type in FLOATING:
            value.type.tensor_type.elem_type = element


def convert(tensor: TensorProto, dtype: np.dtype[np.generic], element: int) -> None:
    """One tensor, in place."""
    if tensor.data_type in FLOATING and tensor.data_type != element:
        values = np.asarray(numpy_helper.to_array(tensor)).astype(dtype)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
