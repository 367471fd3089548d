"""Changes of what a model says of its values, and of its versions."""

from __future__ import annotations

import random

import onnx
from onnx import ModelProto, helper

from fuzz.changes.parts import all_names, change_value, kind, pick, some_number

__all__ = ["declared_values", "names", "outputs_of_graphs", "versions"]


@kind
def declared_values(model: ModelProto, chance: random.Random) -> str | None:
    graph = model.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    value = pick(chance, values)
    if value is None:
        return None
    if chance.random() < 0.2:
        value = graph.value_info.add(name=chance.choice(all_names(model) or ["x"]))
        value.type.tensor_type.elem_type = 1
        value.type.tensor_type.shape.dim.extend(
            onnx.TensorShapeProto.Dimension(dim_value=some_number(chance)) for _ in range(chance.randrange(5))
        )
    else:
        change_value(value, chance)
    return f"declaration of {value.name!r}"


@kind
def names(model: ModelProto, chance: random.Random) -> str | None:
    """Renames a value everywhere, or in one place."""
    name = pick(chance, all_names(model))
    if name is None:
        return None
    new = chance.choice(
        ["", "camrt_logits", "camrt_images", "x" * 400, "é\n", *all_names(model)[:5], "0", "file_"]
    )
    once = chance.random() < 0.4
    for node in model.graph.node:
        for listed in (node.input, node.output):
            for i, read in enumerate(listed):
                if read == name:
                    listed[i] = new
                    if once:
                        return f"{name!r} is called {new!r} once"
    for value in [*model.graph.input, *model.graph.output, *model.graph.initializer, *model.graph.value_info]:
        if value.name == name:
            value.name = new
    return f"{name!r} is called {new!r}"


@kind
def outputs_of_graphs(model: ModelProto, chance: random.Random) -> str | None:
    graph = model.graph
    how = chance.randrange(5)
    if how == 0 and graph.output:
        del graph.output[chance.randrange(len(graph.output))]
    elif how <= 2:
        names = all_names(model)
        graph.output.add(name=chance.choice(names or ["x"]))
        if chance.random() < 0.5:
            graph.output[-1].type.tensor_type.elem_type = 1
    elif how == 3 and graph.output:
        graph.output[0].name = chance.choice(all_names(model) or ["x"])
        graph.output[0].type.tensor_type.ClearField("shape")
    else:
        graph.input.append(helper.make_tensor_value_info("another", 1, [1, 3, 8, 8]))
    return "outputs or inputs of the graph"


@kind
def versions(model: ModelProto, chance: random.Random) -> str | None:
    how = chance.randrange(4)
    if how == 0:
        model.ir_version = chance.choice([0, 3, 4, 7, 10, 13, 99, -1, 2**62])
    elif how <= 2 and model.opset_import:
        entry = chance.choice(list(model.opset_import))
        entry.version = chance.choice([*range(6, 27), 0, -1, 99, 2**63 - 1])
    else:
        model.opset_import.add(
            domain=chance.choice(["", "com.microsoft", "ai.onnx.ml", "x"]), version=some_number(chance)
        )
    return "versions"
