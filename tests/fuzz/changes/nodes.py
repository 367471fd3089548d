"""Changes of nodes: what they do, read and make, and whether they are there."""

from __future__ import annotations

import random

from onnx import ModelProto, NodeProto

from fuzz.changes.parts import OPERATORS, all_graphs, all_names, all_nodes, kind, pick, replace_nodes

__all__ = ["node_gone", "node_order", "node_twice", "operator", "outputs_of_nodes", "wiring"]


@kind
def operator(model: ModelProto, chance: random.Random) -> str | None:
    node = pick(chance, all_nodes(model))
    if node is None:
        return None
    before = node.op_type
    node.op_type = chance.choice(OPERATORS)
    if chance.random() < 0.1:
        node.op_type = chance.choice(["", "Nothing", "relu", before + " ", "é", node.op_type])
        node.domain = chance.choice(
            ["", "ai.onnx", "com.microsoft", "ai.onnx.ml", "nobody", "com.microsoft.nchwc"]
        )
    if chance.random() < 0.4:
        del node.attribute[:]
    return f"{before} becomes {node.op_type!r}"


@kind
def wiring(model: ModelProto, chance: random.Random) -> str | None:
    node = pick(chance, all_nodes(model))
    if node is None:
        return None
    names, how = all_names(model), chance.randrange(6)
    if how <= 2 and node.input and names:
        place = chance.randrange(len(node.input))
        node.input[place] = chance.choice(names)
    elif how == 3 and node.input:
        inputs = list(node.input)
        chance.shuffle(inputs)
        node.input[:] = inputs
    elif how == 4 and node.input:
        place = chance.randrange(len(node.input))
        if chance.random() < 0.5:
            node.input[place] = ""
        else:
            del node.input[place]
    elif names:
        node.input.append(chance.choice(names))
    return f"inputs of {node.op_type}"


@kind
def outputs_of_nodes(model: ModelProto, chance: random.Random) -> str | None:
    node = pick(chance, (node for node in all_nodes(model) if node.output))
    if node is None:
        return None
    how = chance.randrange(5)
    place = chance.randrange(len(node.output))
    if how == 0:
        node.output[place] = ""
    elif how == 1:
        node.output.append(f"further_{chance.randrange(100)}")
    elif how == 2:
        node.output.insert(0, f"further_{chance.randrange(100)}")
    elif how == 3:
        del node.output[place]
    else:
        node.output[place] = chance.choice(all_names(model) or ["x"])
    return f"outputs of {node.op_type}"


@kind
def node_gone(model: ModelProto, chance: random.Random) -> str | None:
    graph = chance.choice(all_graphs(model))
    if not graph.node:
        return None
    place = chance.randrange(len(graph.node))
    gone = NodeProto()
    gone.CopyFrom(graph.node[place])
    del graph.node[place]
    if chance.random() < 0.8 and gone.input and gone.output:
        source = chance.choice(list(gone.input))
        for node in graph.node:
            for i, name in enumerate(node.input):
                if name == gone.output[0]:
                    node.input[i] = source
        for value in graph.output:
            if value.name == gone.output[0]:
                value.name = source
    return f"{gone.op_type} is gone"


@kind
def node_twice(model: ModelProto, chance: random.Random) -> str | None:
    graph = chance.choice(all_graphs(model))
    if not graph.node:
        return None
    place = chance.randrange(len(graph.node))
    copy = NodeProto()
    copy.CopyFrom(graph.node[place])
    if chance.random() < 0.8:  # the copy follows the node
        new = f"again_{chance.randrange(1000)}"
        for node in list(graph.node)[place + 1 :]:
            for i, name in enumerate(node.input):
                if copy.output and name == copy.output[0]:
                    node.input[i] = new
        if copy.input and copy.output:
            copy.input[0] = copy.output[0]
        del copy.output[:]
        copy.output.append(new)
    nodes = [*list(graph.node)[: place + 1], copy, *list(graph.node)[place + 1 :]]
    replace_nodes(graph, nodes)
    return f"{copy.op_type} twice"


@kind
def node_order(model: ModelProto, chance: random.Random) -> str | None:
    graph = chance.choice(all_graphs(model))
    nodes = list(graph.node)
    chance.shuffle(nodes)
    replace_nodes(graph, nodes)
    return "order of nodes"
