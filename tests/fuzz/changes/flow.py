"""Changes that put branches and loops around tensors, or break them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, helper, numpy_helper

from fuzz.changes.parts import all_graphs, all_nodes, change_value, kind, pick, replace_nodes, some_number

__all__ = ["control_flow", "subgraphs"]


@kind
def control_flow(model: ModelProto, chance: random.Random) -> str | None:
    """Puts an If or a Loop around a tensor."""
    graph = model.graph
    source = pick(chance, [name for node in graph.node for name in node.output if name])
    if source is None:
        return None
    number = chance.randrange(10**6)
    made = f"flow_{number}"

    def values(name: str, element: int, shape: Any = None) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, element, shape)

    constants = [numpy_helper.from_array(np.array(chance.random() < 0.8), f"{made}_so")]
    if chance.random() < 0.5:
        branches = {
            f"{which}_branch": helper.make_graph(
                [
                    helper.make_node(
                        chance.choice(["Identity", "Relu", "Neg", "Shape"]), [source], [f"{made}_{which}"]
                    )
                ],
                which,
                [],
                [values(f"{made}_{which}", 1)],
            )
            for which in ("then", "else")
        }
        node = helper.make_node("If", [f"{made}_so"], [made], made, **branches)
    else:
        constants.append(numpy_helper.from_array(np.array(some_number(chance) % 100), f"{made}_turns"))
        inner = chance.choice([["state"], ["state", source], ["state", "state"]])
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["going"], ["on"]),
                helper.make_node("Identity" if len(inner) == 1 else "Add", inner, ["next"]),
            ],
            "body",
            [values("turn", 7, []), values("going", 9, []), values("state", 1)],
            [values("on", 9, []), values("next", 1)],
        )
        node = helper.make_node("Loop", [f"{made}_turns", f"{made}_so", source], [made], made, body=body)
    for other in graph.node:
        for i, read in enumerate(other.input):
            if read == source:
                other.input[i] = made
    nodes = list(graph.node)
    place = next(i + 1 for i, other in enumerate(nodes) if source in other.output)
    replace_nodes(graph, [*nodes[:place], node, *nodes[place:]])
    graph.initializer.extend(constants)
    return f"{node.op_type} behind {source}"


@kind
def subgraphs(model: ModelProto, chance: random.Random) -> str | None:
    """Changes the declarations of a graph inside a node."""
    graph = pick(chance, all_graphs(model)[1:])
    if graph is None:
        return None
    how = chance.randrange(5)
    values = chance.choice([graph.input, graph.output])
    if how == 0 and values:
        del values[chance.randrange(len(values))]
    elif how == 1 and values:
        values.add().CopyFrom(chance.choice(list(values)))
    elif how == 2 and values:
        change_value(chance.choice(list(values)), chance)
    elif how == 3:
        del graph.node[:]
    else:
        node = pick(
            chance, (node for node in all_nodes(model) if any(i.HasField("g") for i in node.attribute))
        )
        if node is not None:
            item = next(item for item in node.attribute if item.HasField("g"))
            item.g.CopyFrom(chance.choice([graph, GraphProto()]))
    return f"subgraph {graph.name!r}"
