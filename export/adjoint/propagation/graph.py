"""The graph that hands a logit back to the pixels by the rules of DeepLIFT or LRP.

It is written as an adjoint is (`camrt.export.adjoint.gradient_graph`), with another rule for each node.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import NodeProto, TensorProto, helper

from camrt.errors import AdjointError
from camrt.export.adjoint.backward_pass import BackwardPass
from camrt.export.adjoint.gradient_graph import (
    GRADIENT,
    WEIGHTING,
    append_adjoint,
    check_operator_set,
)
from camrt.export.adjoint.propagation.layerwise import LayerwiseRelevance
from camrt.export.adjoint.propagation.rescale import Rescaling
from camrt.export.adjoint.registry import PropagationRule
from camrt.export.graph.index import Graph, find_dependents, opset
from camrt.export.graph.node_maker import NodeMaker
from camrt.export.graph.upkeep import drop_unused
from camrt.export.heads.cut import build_head_model
from camrt.export.rewrites.float_types import cast_floats
from camrt.export.rewrites.input_form import IMAGES
from camrt.export.rewrites.interface import LOGITS

__all__ = ["EPSILON", "REFERENCE", "build_propagation_model"]

REFERENCE = "camrt_reference"
EPSILON = "camrt_epsilon"


def build_propagation_model(
    model: onnx.ModelProto,
    graph: Graph,
    rule: PropagationRule,
    *,
    input_name: str,
    batch: int | None,
    supports_scatter_add: bool = True,
    start: str = IMAGES,
    extra_inputs: Sequence[str] = (),
    weighs_logits: bool = True,
) -> onnx.ModelProto:
    """The graph from images and a weighting of the logits to logits and multipliers, or relevance.

    Inputs: `input_name` (N, C, H, W), `camrt_weighting` (N, classes), and of DeepLIFT `camrt_reference`
    (N, C, H, W), of LRP `camrt_epsilon` (N,), the same number in every row. Outputs: `camrt_logits` and
    `camrt_gradient` (N, C, H, W): DeepLIFT's multipliers of the weighted logits, or LRP's relevance.

    Args:
        model: The standardised model; it is not changed.
        graph: Its index.
        rule: "rescale" of DeepLIFT, or a rule of LRP.
        input_name: Name the images get.
        batch: Fixed batch size of the graph; None when it is open.
        supports_scatter_add: Whether the runtime has a ScatterElements that adds.
        start: The tensor that shares are handed back to: the images, or an activation that stands for them.
        extra_inputs: Tensors that go around it, the same for the reference; nothing is handed back to them.
        weighs_logits: Whether what LRP hands back is the weighting times the logits, or the weighting itself.

    Raises:
        AdjointError: An operator has no such rule.
    """
    check_operator_set(model)
    reached = find_dependents([start], graph.nodes, through_sizes=False)
    part = build_head_model(
        model, graph, start, LOGITS, input_name=input_name, batch=batch, extra_inputs=extra_inputs
    )
    cast_floats(part, TensorProto.FLOAT)
    make = NodeMaker(opset(model), supports_scatter_add=supports_scatter_add)
    nodes = [node for node in part.graph.node if not node.output[0].startswith("camrt_out_")]
    begin = WEIGHTING
    apply: Rescaling | LayerwiseRelevance
    if rule == "rescale":
        names = add_reference_pass(part, nodes, reached, input_name)
        apply = Rescaling(names)
    else:
        part.graph.input.append(helper.make_tensor_value_info(EPSILON, TensorProto.FLOAT, [batch or "N"]))
        apply = LayerwiseRelevance(rule, make.add("ReduceMax", EPSILON, keepdims=0))
        begin = make.add("Mul", WEIGHTING, LOGITS) if weighs_logits else WEIGHTING
    walk = BackwardPass(graph, make, reached, "plain", [], [], {LOGITS: [begin]}, apply)
    walk.propagate_back(nodes, start)
    found = walk.cotangent(start)
    if found is None:
        raise AdjointError(
            f"no share of the logits reaches {start!r}: every way there leads through an operator that gives "
            f"the same for numbers nearby ({', '.join(dict.fromkeys(walk.dead_ends))})"
        )
    make.nodes.append(helper.make_node("Identity", [found], [GRADIENT]))
    append_adjoint(part, make, batch, graph, LOGITS)
    drop_unused(part)
    return part


def add_reference_pass(
    part: onnx.ModelProto, nodes: list[NodeProto], reached: frozenset[str], input_name: str
) -> dict[str, str]:
    """A second pass through a graph, of a reference image: its tensors' names by those of the first."""
    names = {input_name: REFERENCE}
    names |= {made: f"{REFERENCE}_{made}" for node in nodes for made in node.output if made in reached}
    for node in nodes:
        if not any(made in reached for made in node.output):
            continue
        twin = NodeProto()
        twin.CopyFrom(node)
        twin.ClearField("name")  # names are of one node each
        for own in (twin.input, twin.output):
            for place, name in enumerate(own):
                own[place] = names.get(name, name)
        part.graph.node.append(twin)
    value = onnx.ValueInfoProto()
    value.CopyFrom(part.graph.input[0])
    value.name = REFERENCE
    part.graph.input.append(value)
    return names
