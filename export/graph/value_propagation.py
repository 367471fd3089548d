"""Small values that follow from what a file states: the arithmetic that exporters put around shapes.

Each value has at most `MAX_VALUES` elements, and its shape has been inferred before it is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, TypeProto, numpy_helper

from camrt.export.graph.traversal import normalise_domain

__all__ = ["MAX_VALUES", "NUMPY_TYPES", "Array", "compute_value", "move_elements", "type_shape"]

Array = NDArray[np.generic]

MAX_VALUES = 256  # more than any shape has, and cheap to keep for every node


def type_shape(kind: TypeProto | None) -> tuple[int, ...] | None:
    """The shape of a type, when all of it is known."""
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None


NUMPY_TYPES: dict[int, type[np.generic]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.INT32: np.int32,
    TensorProto.INT64: np.int64,
    TensorProto.BOOL: np.bool_,
}

_Attributes = Mapping[str, onnx.AttributeProto]


def compute_value(
    node: onnx.NodeProto, types: Mapping[str, TypeProto], values: Mapping[str, Array]
) -> dict[str, Array]:
    """The value of a node's result, if it is small and follows from known ones."""
    if normalise_domain(node.domain) or len(node.output) != 1:
        return {}
    if node.op_type not in _COMPUTED and node.op_type not in ("Shape", "Size"):
        return {}
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type in ("Shape", "Size"):
        shape = type_shape(types.get(node.input[0])) if node.input else None
        if shape is None:
            return {}
        whole = node.op_type == "Size"
        numbers = math.prod(shape) if whole else shape[_shape_slice(attributes)]
        return {node.output[0]: np.asarray(numbers, np.int64)}
    compute = _COMPUTED.get(node.op_type)
    shape = type_shape(types.get(node.output[0]))
    if compute is None or shape is None or math.prod(shape) > MAX_VALUES:
        return {}
    operands: list[Array | None] = []
    for name in node.input:
        if name and name not in values:
            return {}
        operands.append(values[name] if name else None)
    try:
        with np.errstate(all="ignore"):
            value = compute(operands, attributes)
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError):
        return {}
    return {node.output[0]: value} if value.shape == shape else {}


# Put elements elsewhere, and compute nothing.
_MOVING = ("Concat", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze")


def move_elements(node: onnx.NodeProto, value_of: Callable[[str], Array | None]) -> Array | None:
    """The result of a node that only moves elements about, of any kind; None for others and unknown operands.

    Args:
        node: The node.
        value_of: Gives the value of a tensor, None when it is not known.
    """
    if normalise_domain(node.domain) or node.op_type not in _MOVING:
        return None
    operands = [value_of(name) if name else None for name in node.input]
    if any(name and value is None for name, value in zip(node.input, operands, strict=True)):
        return None
    try:
        result = _COMPUTED[node.op_type](operands, {item.name: item for item in node.attribute})
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None
    held = np.empty(np.shape(result), object)
    held[...] = result
    return held


def _int(attributes: _Attributes, name: str, default: int) -> int:
    return attributes[name].i if name in attributes else default


def _shape_slice(attributes: _Attributes) -> slice:
    return slice(_int(attributes, "start", 0), attributes["end"].i if "end" in attributes else None)


def _operand(operands: Sequence[Array | None], index: int) -> Array | None:
    return operands[index] if index < len(operands) else None


def _axes(operands: Sequence[Array | None], attributes: _Attributes) -> tuple[int, ...] | None:
    given = _operand(operands, 1)
    if given is not None:
        return tuple(int(axis) for axis in given.reshape(-1))
    return tuple(attributes["axes"].ints) if "axes" in attributes else None


def _slice(operands: Sequence[Array | None], attributes: _Attributes) -> Array:
    data = _known(operands, 0)
    if "starts" in attributes:
        starts, ends = list(attributes["starts"].ints), list(attributes["ends"].ints)
        axes = list(attributes["axes"].ints) if "axes" in attributes else None
        steps = None
    else:
        starts, ends = _known(operands, 1).tolist(), _known(operands, 2).tolist()
        given, stride = _operand(operands, 3), _operand(operands, 4)
        axes = None if given is None else given.tolist()
        steps = None if stride is None else stride.tolist()
    index = [slice(None)] * data.ndim
    for i, axis in enumerate(axes if axes is not None else range(len(starts))):
        step = 1 if steps is None else steps[i]
        stop = None if step < 0 and ends[i] < -data.shape[axis] else ends[i]
        index[axis] = slice(starts[i], stop, step)
    return data[tuple(index)]


def _reshape(operands: Sequence[Array | None], attributes: _Attributes) -> Array:
    data, shape = _known(operands, 0), [int(dim) for dim in _known(operands, 1)]
    if not _int(attributes, "allowzero", 0):
        shape = [data.shape[i] if dim == 0 else dim for i, dim in enumerate(shape)]
    return data.reshape(shape)


def _filled(operands: Sequence[Array | None], attributes: _Attributes) -> Array:
    value = numpy_helper.to_array(attributes["value"].t) if "value" in attributes else np.zeros(1, np.float32)
    return np.full([int(dim) for dim in _known(operands, 0)], value.reshape(-1)[0], value.dtype)


def _divide(operands: Sequence[Array | None], attributes: _Attributes) -> Array:
    left, right = _known(operands, 0), _known(operands, 1)
    if left.dtype.kind != "i":
        return np.asarray(np.divide(left, right))
    return np.asarray(np.trunc(np.divide(left, right)), left.dtype)


def _remainder(operands: Sequence[Array | None], attributes: _Attributes) -> Array:
    function = np.fmod if _int(attributes, "fmod", 0) else np.mod
    return np.asarray(function(_known(operands, 0), _known(operands, 1)))


def _cast(operands: Sequence[Array | None], attributes: _Attributes) -> Array:
    return _known(operands, 0).astype(NUMPY_TYPES[attributes["to"].i])


def _unsqueeze(operands: Sequence[Array | None], attributes: _Attributes) -> Array:
    return np.expand_dims(_known(operands, 0), _axes(operands, attributes) or ())


def _range(operands: Sequence[Array | None], attributes: _Attributes) -> Array:
    start, stop, step = (_known(operands, i).item() for i in range(3))
    if abs(stop - start) > MAX_VALUES * abs(step):
        raise ValueError("too long to compute here")
    return np.arange(start, stop, step).astype(_known(operands, 0).dtype)


def _known(operands: Sequence[Array | None], index: int) -> Array:
    value = operands[index]
    if value is None:
        raise ValueError(index)
    return value


def _pairwise(function: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    def compute(operands: Sequence[Array | None], attributes: _Attributes) -> Array:
        return np.asarray(function(_known(operands, 0), _known(operands, 1)))

    return compute


_COMPUTED: dict[str, Callable[[Sequence[Array | None], _Attributes], Array]] = {
    "Add": _pairwise(np.add),
    "Cast": _cast,
    "Concat": lambda operands, attributes: np.concatenate(
        [_known(operands, i) for i in range(len(operands))], attributes["axis"].i
    ),
    "Constant": lambda _, attributes: numpy_helper.to_array(attributes["value"].t),
    "ConstantOfShape": _filled,
    "Div": _divide,
    "Equal": _pairwise(np.equal),
    "Expand": lambda operands, _: (
        _known(operands, 0) * np.ones([int(dim) for dim in _known(operands, 1)], _known(operands, 0).dtype)
    ),
    "Gather": lambda operands, attributes: np.take(
        _known(operands, 0), np.asarray(_known(operands, 1), np.int64), _int(attributes, "axis", 0)
    ),
    "Identity": lambda operands, _: _known(operands, 0),
    "Max": _pairwise(np.maximum),
    "Min": _pairwise(np.minimum),
    "Mod": _remainder,
    "Mul": _pairwise(np.multiply),
    "Range": _range,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": lambda operands, attributes: np.squeeze(_known(operands, 0), _axes(operands, attributes)),
    "Sub": _pairwise(np.subtract),
    "Transpose": lambda operands, attributes: np.transpose(
        _known(operands, 0), list(attributes["perm"].ints) if "perm" in attributes else None
    ),
    "Unsqueeze": _unsqueeze,
    "Where": lambda operands, _: np.where(_known(operands, 0), _known(operands, 1), _known(operands, 2)),
}
