"""The adjoint of a head: a second graph that gives the gradient of the logits.

Nodes are walked from the logits back to the activation. Each has a rule (`camrt.export.adjoint.rules`) that
turns the cotangents of its outputs into those of its inputs; cotangents that meet at a tensor are added. The
graph holds the head itself too, because rules read its tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

from camrt.errors import AdjointError
from camrt.export.adjoint import rules  # noqa: F401  (registers them)
from camrt.export.adjoint.backward_pass import BackwardPass
from camrt.export.adjoint.bias_gradients import BIAS_MAP, make_bias_map
from camrt.export.adjoint.registry import GRADIENT_FREE_HINT, BiasScaling, ReluRule
from camrt.export.graph.index import Graph, find_dependents, opset, set_shape
from camrt.export.graph.node_maker import NodeMaker
from camrt.export.graph.upkeep import drop_unused
from camrt.export.heads.cut import build_head_model, extra_input_name
from camrt.export.rewrites.float_types import cast_floats
from camrt.export.rewrites.interface import LOGITS
from camrt.export.rewrites.opset_upgrade import MODERN_OPSET

__all__ = [
    "GRADIENT",
    "WEIGHTING",
    "append_adjoint",
    "build_adjoint_model",
    "check_operator_set",
    "find_feature_vectors",
    "is_gradient",
]

WEIGHTING = "camrt_weighting"
GRADIENT = "camrt_gradient"


def build_adjoint_model(
    model: onnx.ModelProto,
    graph: Graph,
    start: str,
    *,
    end: str = LOGITS,
    input_name: str,
    batch: int | None,
    extra_inputs: Sequence[str] = (),
    known_tensors: Sequence[str] = (),
    relu: ReluRule = "plain",
    element: int = TensorProto.FLOAT,
    supports_scatter_add: bool = True,
    biases: BiasScaling | None = None,
) -> onnx.ModelProto:
    """The graph from an activation (or the image) and a weighting of the logits to logits and gradient.

    Inputs: `input_name`, of the activation's shape; `camrt_weighting` w (N, C), the number each logit counts
    with (a row of zeros with a one at class c for ∂logit_c/∂A); one a tensor of `extra_inputs`, named as in
    `camrt.export.heads.cut.build_head_model`. Outputs: `camrt_logits` (N, C) and `camrt_gradient`
    ∂(Σ_c w_c·logit_c)/∂A, of the activation's shape. Where the graph ends before the logits, w weighs what
    it ends in and has its shape, and the gradient is the only output. Whatever floating-point type the file
    holds, everything is computed in `element`.

    Args:
        model: The standardised model; it is not changed.
        graph: Its index.
        start: The tensor the gradient is for: the target, or the model's input.
        end: The tensor that is weighted: the logits, or one that they are made from.
        input_name: Name the first input gets.
        batch: Fixed batch size of the graph; None when it is open.
        extra_inputs: Tensors that go around the cut; no gradient is followed into them.
        known_tensors: Tensors of the head that are inputs too, named as if they followed those of
            `extra_inputs`, because the trunk pass has made them already: what leads to them is not run again.
        relu: How ReLUs pass gradients on, see `BackwardStep`.
        element: Element type of the graph that is made.
        supports_scatter_add: Whether the runtime has a ScatterElements that adds; pooling is slower without.
        biases: Of a gradient at the images, adds the output `camrt_bias_map` (N, H, W), see `make_bias_map`.

    Raises:
        AdjointError: An operator has no rule, or something on the way has no derivative.
    """
    check_operator_set(model)
    reached = find_dependents([start], graph.nodes, through_sizes=False)
    if end not in reached:
        raise AdjointError(f"the logits do not depend on {start!r}: their gradient there is zero everywhere")
    head = build_head_model(
        model, graph, start, end, input_name=input_name, batch=batch, extra_inputs=extra_inputs
    )
    cast_floats(head, element)
    make = NodeMaker(opset(model), element, supports_scatter_add=supports_scatter_add)
    walk = BackwardPass(graph, make, reached, relu, [], [], {end: [WEIGHTING]})
    leave = next(i for i, node in enumerate(head.graph.node) if node.output[0].startswith("camrt_out_"))
    nodes = [*head.graph.node[:leave], *head.graph.node[leave + 1 :]]
    walk.propagate_back(nodes, start)
    gradient = walk.cotangent(start)
    if gradient is None:
        raise AdjointError(
            f"the gradient of the logits at {start!r} is zero everywhere: every way there leads through an "
            f"operator whose derivative is zero ({', '.join(dict.fromkeys(walk.dead_ends))}). "
            f"{GRADIENT_FREE_HINT}"
        )
    if relu == "guided" and not walk.guided:
        raise AdjointError(
            "guided back-propagation changes how gradients pass ReLUs, and this model has none; "
            "use 'gradient' or 'smoothgrad'"
        )
    make.nodes.append(helper.make_node("Identity", [gradient], [GRADIENT]))
    if biases is not None:
        make.nodes.append(helper.make_node("Identity", [make_bias_map(walk, nodes, biases)], [BIAS_MAP]))
    append_adjoint(head, make, batch, graph, end)
    if biases is not None:
        head.graph.output.append(helper.make_tensor_value_info(BIAS_MAP, element, None))
    for number, name in enumerate(known_tensors, start=len(extra_inputs)):
        replace_by_input(head, name, extra_input_name(number), batch, graph)
    drop_unused(head)
    return head


def check_operator_set(model: onnx.ModelProto) -> None:
    """Refuses a model that could not be brought to the operator set that adjoints are written in.

    Raises:
        AdjointError: It is one.
    """
    if opset(model) < MODERN_OPSET:
        raise AdjointError(
            f"the graph of a gradient is written in operator set {MODERN_OPSET}, and this file's, of "
            f"operator set {opset(model)}, holds something that has no spelling there: convert the file "
            "(onnx.version_converter.convert_version), or export it again"
        )


def is_gradient(model: onnx.ModelProto) -> bool:
    """Whether a graph gives a gradient, which needs the range of float32."""
    return GRADIENT in {value.name for value in model.graph.output}


def find_feature_vectors(graph: Graph, start: str, end: str = LOGITS) -> tuple[str, ...]:
    """The vectors (N, F) that the head's linear layers make: small, and much is read to make them.

    A product of two matrices that depend on the images may have as many columns as there are images.
    """
    reached = graph.downstream(start)
    nodes = [graph.nodes[index] for index in graph.upstream_nodes(end, stop=[start])]
    return tuple(
        node.output[0]
        for node in nodes
        if node.op_type in ("Gemm", "MatMul")
        and any(graph.is_constant(read) for read in node.input[:2])
        and node.output[0] in reached
        and (shape := graph.shape(node.output[0])) is not None
        and len(shape) == 2
        and shape[0] == graph.input_shape[0]
    )


def append_adjoint(head: onnx.ModelProto, make: NodeMaker, batch: int | None, graph: Graph, end: str) -> None:
    """Puts the adjoint's nodes behind the head's own."""
    weighted = graph.shape(end)
    weighting = helper.make_tensor_value_info(WEIGHTING, make.element, None)
    set_shape(weighting, [batch or "N", *weighting_axes(weighted)])
    head.graph.input.append(weighting)
    head.graph.node.extend(make.nodes)
    head.graph.initializer.extend(make.initializers)
    exit_node = next(node for node in head.graph.node if node.output[0].startswith("camrt_out_"))
    head.graph.node.remove(exit_node)
    del head.graph.output[:]
    for name in (LOGITS, GRADIENT) if end == LOGITS else (GRADIENT,):
        head.graph.output.append(helper.make_tensor_value_info(name, make.element, None))


def weighting_axes(weighted: tuple[int, ...] | None) -> Sequence[int | str]:
    """The axes behind the first of what weighs a tensor of that shape; h and w of a map are left open."""
    if weighted is None:
        return ["C"]
    if len(weighted) == 4 and weighted[2] * weighted[3] > 1:
        return [weighted[1], f"{WEIGHTING}_h", f"{WEIGHTING}_w"]
    return weighted[1:]


def replace_by_input(head: onnx.ModelProto, name: str, outer: str, batch: int | None, graph: Graph) -> None:
    """Makes a tensor of the head an input instead."""
    producer = next(node for node in head.graph.node if name in node.output)
    head.graph.node.remove(producer)
    element = head.graph.input[0].type.tensor_type.elem_type
    value = helper.make_tensor_value_info(outer, element, None)
    shape = graph.shape(name)
    assert shape is not None
    set_shape(value, [batch or "N", *shape[1:]])
    head.graph.input.append(value)
    head.graph.node.insert(0, helper.make_node("Identity", [outer], [name]))
