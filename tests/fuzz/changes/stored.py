"""Changes of how tensors are stored."""

from __future__ import annotations

import random

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from fuzz.changes.parts import WEIGHTS_BESIDE, all_tensors, array_of, kind, pick, some_number, some_tensor

__all__ = ["external_data", "tensor_data", "tensor_gone_or_more"]


@kind
def tensor_data(model: ModelProto, chance: random.Random) -> str | None:
    tensor = pick(chance, all_tensors(model))
    if tensor is None:
        return None
    how = chance.randrange(5)
    if how == 0:
        tensor.raw_data = tensor.raw_data[: chance.randrange(len(tensor.raw_data) + 1)]
    elif how == 1:
        tensor.raw_data = tensor.raw_data + bytes(chance.randrange(1, 9))
    elif how == 2:
        array = array_of(tensor)
        if array is not None and array.dtype == np.float32:
            tensor.ClearField("raw_data")
            tensor.float_data.extend(array.reshape(-1).tolist()[: chance.choice([None, 1, -1])])
    elif how == 3:
        tensor.float_data.append(1.0)
    else:
        tensor.segment.begin, tensor.segment.end = 0, some_number(chance)
    return f"data of {tensor.name!r}"


@kind
def tensor_gone_or_more(model: ModelProto, chance: random.Random) -> str | None:
    graph = model.graph
    if not graph.initializer:
        return None
    place = chance.randrange(len(graph.initializer))
    name = graph.initializer[place].name
    how = chance.randrange(5)
    if how == 0:
        del graph.initializer[place]
    elif how == 1:
        graph.initializer.add().CopyFrom(graph.initializer[place])
    elif how == 2:
        graph.input.append(helper.make_tensor_value_info(name, 1, [some_number(chance) % 9]))
    elif how == 3:
        graph.initializer[place].CopyFrom(some_tensor(chance, name))
    else:
        array = array_of(graph.initializer[place])
        if array is not None and array.size:
            sparse = graph.sparse_initializer.add()
            sparse.values.CopyFrom(numpy_helper.from_array(array.flatten()[:1], name))
            sparse.indices.CopyFrom(
                numpy_helper.from_array(np.array([chance.choice([0, some_number(chance)])]))
            )
            sparse.dims.extend(array.shape)
            del graph.initializer[place]
    return f"{name!r} is gone, twice, an input or sparse"


@kind
def external_data(model: ModelProto, chance: random.Random) -> str | None:
    tensor = pick(chance, all_tensors(model))
    if tensor is None:
        return None
    tensor.data_location = TensorProto.EXTERNAL
    if chance.random() < 0.8:
        tensor.ClearField("raw_data")
    places = (
        WEIGHTS_BESIDE,
        f"./{WEIGHTS_BESIDE}",
        "",
        "..",
        "../x",
        "/etc/hostname",
        "model.onnx",
        "absent",
        "\0",
        "a" * 5000,
    )
    entries = {
        "location": chance.choice(places if chance.random() < 0.5 else (WEIGHTS_BESIDE,)),
        "offset": str(chance.choice([0, 4, some_number(chance), "x", ""])),
        "length": str(chance.choice([4, 64, some_number(chance), "-", "1e3"])),
    }
    for key, value in entries.items():
        if chance.random() < 0.8:
            tensor.external_data.add(key=key, value=value)
    return f"external data of {tensor.name!r}"
