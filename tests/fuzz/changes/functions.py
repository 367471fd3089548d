"""Changes of local functions."""

from __future__ import annotations

import random

from onnx import ModelProto, NodeProto, helper

from fuzz.changes.parts import kind, pick

__all__ = ["functions"]


@kind
def functions(model: ModelProto, chance: random.Random) -> str | None:
    if not model.functions:
        node = pick(chance, (n for n in model.graph.node if n.output and n.op_type != "Constant"))
        if node is None:
            return None
        inputs = [f"x{i}" for i in range(len(node.input))]
        inner = NodeProto()
        inner.CopyFrom(node)
        inner.input[:], inner.output[:] = inputs, [f"y{i}" for i in range(len(node.output))]
        opsets = list(model.opset_import)
        model.functions.append(
            helper.make_function("local", "part", inputs, list(inner.output), [inner], opsets)
        )
        del node.attribute[:]
        node.op_type, node.domain = "part", "local"
        model.opset_import.append(helper.make_opsetid("local", 1))
    function = chance.choice(list(model.functions))
    how = chance.randrange(6)
    if how == 0 and function.input:
        del function.input[chance.randrange(len(function.input))]
    elif how == 1 and function.output:
        del function.output[chance.randrange(len(function.output))]
    elif how == 2 and function.node:
        function.node[0].op_type, function.node[0].domain = function.name, function.domain
    elif how == 3:
        function.attribute.append(chance.choice(["slope", "alpha", "x"]))
    elif how == 4 and function.opset_import:
        function.opset_import[0].version = chance.choice([1, 6, 12, 18, 30])
    return f"function {function.name!r}"
