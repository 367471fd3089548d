"""Changes of stored tensors: shapes, types and numbers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from fuzz.changes.parts import REAL, TYPES, all_tensors, array_of, fill, kind, pick, some_number

__all__ = ["tensor_shape", "tensor_type", "tensor_values"]


@kind
def tensor_shape(model: ModelProto, chance: random.Random) -> str | None:
    tensor = pick(chance, all_tensors(model))
    if tensor is None:
        return None
    how = chance.randrange(5)
    dims = list(tensor.dims)
    array = array_of(tensor)
    if how == 0 and array is not None:  # the same numbers in another shape
        change_shape(tensor, array, chance)
    elif how == 1 and array is not None:  # other numbers in another shape
        shape = [abs(some_number(chance)) % 17 for _ in range(chance.randrange(6))]
        fill(tensor, np.resize(array, shape) if array.size else np.zeros(shape, array.dtype))
    elif how == 2 and dims:
        tensor.dims[chance.randrange(len(dims))] = some_number(chance)
    elif how == 3:
        del tensor.dims[:]
        tensor.dims.extend(some_number(chance) for _ in range(chance.randrange(8)))
    elif dims:
        chance.shuffle(dims)
        tensor.dims[:] = dims
    return f"shape of {tensor.name!r}"


def change_shape(tensor: TensorProto, array: Any, chance: random.Random) -> None:
    shape = list(array.shape)
    how = chance.randrange(4)
    if how == 0:
        shape.insert(chance.randrange(len(shape) + 1), 1)
    elif how == 1:
        shape = [array.size]
    elif how == 2 and 1 in shape:
        shape.remove(1)
    else:
        chance.shuffle(shape)
    fill(tensor, array.reshape(shape))


@kind
def tensor_type(model: ModelProto, chance: random.Random) -> str | None:
    tensor = pick(chance, all_tensors(model))
    if tensor is None:
        return None
    array = array_of(tensor)
    if chance.random() < 0.5 or array is None or array.dtype.kind not in "fiub":
        tensor.data_type = chance.choice(TYPES)
    else:
        with np.errstate(all="ignore"):
            chosen = chance.choice([np.float64, np.float16, np.int64, np.int32, np.uint8, np.int8, np.bool_])
            fill(tensor, np.nan_to_num(array).astype(chosen))
    return f"type of {tensor.name!r}"


@kind
def tensor_values(model: ModelProto, chance: random.Random) -> str | None:
    tensors = all_tensors(model)
    whole = [tensor for tensor in tensors if tensor.data_type in (6, 7)]
    tensor = pick(chance, whole if whole and chance.random() < 0.6 else tensors)
    array = None if tensor is None else array_of(tensor)
    if array is None or not array.size:
        return None
    flat = array.flatten()
    if array.dtype.kind == "f":
        count = chance.choice([1, flat.size])
        for place in chance.sample(range(flat.size), min(count, 50)):
            with np.errstate(all="ignore"):
                flat[place] = chance.choice(REAL)
    elif array.dtype.kind in "iu":
        info = np.iinfo(array.dtype)
        flat[chance.randrange(flat.size)] = max(info.min, min(info.max, some_number(chance)))
    else:
        return None
    fill(tensor, flat.reshape(array.shape))
    return f"values of {tensor.name!r}"
