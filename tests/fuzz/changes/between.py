"""Changes that put a node between two others."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from fuzz.changes.parts import BINARY, OPERATORS, REAL, kind, pick, replace_nodes, some_number

__all__ = ["node_between"]


@kind
def node_between(model: ModelProto, chance: random.Random) -> str | None:
    """Puts a node between another and one of its readers, or all of them."""
    graph = model.graph
    named = [name for node in graph.node for name in node.output if name]
    source = pick(chance, [*named, *(value.name for value in graph.input)])
    if source is None:
        return None
    made = f"between_{chance.randrange(10**6)}"
    constants: list[TensorProto] = []

    def constant(values: Any, dtype: Any = np.int64) -> str:
        name = f"{made}_{len(constants)}"
        constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    name, inputs, attributes = some_node(chance, source, constant)
    given = {key: value for key, value in attributes.items() if value != []}
    node = helper.make_node(name, inputs, [made], name=made, **given)
    if name == "Split":
        node.output.append(made + "_rest")
    readers = [(other, i) for other in graph.node for i, read in enumerate(other.input) if read == source]
    if chance.random() < 0.3:
        readers = readers[: chance.randrange(len(readers) + 1)]
    for other, i in readers:
        other.input[i] = made
    nodes = list(graph.node)
    place = next((i + 1 for i, other in enumerate(nodes) if source in other.output), 0)
    replace_nodes(graph, [*nodes[:place], node, *nodes[place:]])
    graph.initializer.extend(constants)
    return f"{name} behind {source}"


def some_node(
    chance: random.Random, source: str, constant: Callable[..., str]
) -> tuple[str, list[str], dict[str, Any]]:
    numbers = [some_number(chance) for _ in range(chance.randrange(5))]
    orders = [
        [0, 1, 3, 2],
        [0, 2, 3, 1],
        [0, 3, 1, 2],
        [1, 0, 2, 3],
        [0, 2, 1],
        [1, 0],
        [3, 2, 1, 0],
        numbers,
    ]
    shapes = [[0, -1], [0, 0, -1], [-1], [0, 0, 0, 0], [0, 0, -1, 1], [1, -1], [0, 0, 0, 1], [-1, 0], numbers]
    axes = chance.choice([[2, 3], [1], [-1], [0], [1, 2], [], numbers])
    return chance.choice(
        [
            ("Identity", [source], {}),
            ("Reshape", [source, constant(chance.choice(shapes))], {}),
            ("Transpose", [source], {"perm": chance.choice(orders)}),
            ("Flatten", [source], {"axis": some_number(chance)}),
            ("ReduceMean", [source], {"axes": axes, "keepdims": chance.randrange(2)}),
            ("ReduceSum", [source, constant(axes)], {"keepdims": chance.randrange(2)}),
            ("ReduceMax", [source], {"keepdims": chance.randrange(2)}),
            ("Unsqueeze", [source, constant(axes)], {}),
            ("Squeeze", [source, constant(axes)], {}),
            ("Cast", [source], {"to": chance.choice((1, 10, 11, 6, 7, 9, 2, 16))}),
            ("Concat", [source, source], {"axis": some_number(chance)}),
            ("Split", [source], {"axis": some_number(chance)}),
            ("Slice", [source, *(constant([some_number(chance)]) for _ in range(4))], {}),
            (
                "Gather",
                [source, constant(chance.choice([[0], 0, [[0]], numbers]))],
                {"axis": some_number(chance)},
            ),
            (
                "Pad",
                [source, constant(chance.choice([[0, 0, 1, 1] * 2, [0, 0, -1, 0] * 2, numbers * 2]))],
                {},
            ),
            ("Tile", [source, constant(chance.choice([[1, 1, 1, 1], [1, 2], numbers]))], {}),
            ("Expand", [source, constant(chance.choice([[1], [2, 1, 1, 1], numbers]))], {}),
            ("MaxPool", [source], {"kernel_shape": chance.choice([[1, 1], [2, 2], numbers])}),
            (
                "AveragePool",
                [source],
                {"kernel_shape": [2, 2], "pads": chance.choice([[0] * 4, [1] * 4, numbers])},
            ),
            ("Softmax", [source], {"axis": some_number(chance)}),
            ("Clip", [source, constant(0.0, np.float32), constant(chance.choice(REAL), np.float32)], {}),
            (chance.choice(BINARY), [source, source], {}),
            ("Add", [source, constant(np.ones([abs(n) % 9 for n in numbers]), np.float32)], {}),
            ("Mul", [source, constant(chance.choice(REAL), np.float32)], {}),
            ("Where", [constant(True, np.bool_), source, source], {}),
            ("ConstantOfShape", [source], {}),
            ("Shape", [source], {}),
            ("TopK", [source, constant([some_number(chance)])], {}),
            ("CumSum", [source, constant(some_number(chance))], {}),
            ("DepthToSpace", [source], {"blocksize": some_number(chance)}),
            ("GlobalAveragePool", [source], {}),
            ("LpNormalization", [source], {"axis": some_number(chance)}),
            (chance.choice(OPERATORS), [source], {}),
        ]
    )
