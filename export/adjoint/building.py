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
from camrt.export.adjoint.rules.quantised import straight_through
from camrt.export.adjoint.steps import RULES, ReluRule, Step
from camrt.export.cutting import beside_name, head_model
from camrt.export.float_types import cast_floats
from camrt.export.graph import Graph, drop_unread_initializers, names_read, opset, set_shape
from camrt.export.input_form import is_rounding
from camrt.export.interface import LOGITS
from camrt.export.nodes import NodeMaker
from camrt.export.operators import FLOATING, RESHAPING

__all__ = ["GRADIENT", "WEIGHTING", "adjoint_model", "vectors_of"]

WEIGHTING = "camrt_weighting"
GRADIENT = "camrt_gradient"
# What does with the whole numbers of a picture what it would do with real ones.
ON_WHOLE_NUMBERS = RESHAPING | {"Add", "Cast", "Concat", "Gather", "Identity", "Pad", "Slice", "Split", "Sub"}


def adjoint_model(
    model: onnx.ModelProto,
    graph: Graph,
    start: str,
    *,
    input_name: str,
    batch: int | None,
    beside: Sequence[str] = (),
    given: Sequence[str] = (),
    relu: ReluRule = "plain",
    element: int = TensorProto.FLOAT,
    scatters: bool = True,
) -> onnx.ModelProto:
    """The graph from an activation (or the picture) and a weighting of the logits to logits and gradient.

    Inputs: `input_name`, of the activation's shape; `camrt_weighting` w (N, C), the number each logit counts
    with (a row of zeros with a one at class c for ∂logit_c/∂A); one a tensor of `beside`, named as in
    `camrt.export.cutting.head_model`. Outputs: `camrt_logits` (N, C) and `camrt_gradient`
    ∂(Σ_c w_c·logit_c)/∂A, of the activation's shape. Whatever floating-point type the file holds, everything
    is computed in `element`.

    Args:
        model: The standardised model; it is not changed.
        graph: Its index.
        start: The tensor the gradient is for: the target, or the model's input.
        input_name: Name the first input gets.
        batch: Fixed batch size of the graph; None when it is open.
        beside: Tensors that go around the cut; no gradient is followed into them.
        given: Tensors of the head that are inputs too, named as if they followed those of `beside`, because
            the trunk pass has made them already: what leads to them is not run again.
        relu: How ReLUs pass gradients on, see `Step`.
        element: Element type of the graph that is made.
        scatters: Whether the runtime has a ScatterElements that adds; pooling is slower without.

    Raises:
        AdjointError: An operator has no rule, or something on the way has no derivative.
    """
    head = head_model(model, graph, start, LOGITS, input_name=input_name, batch=batch, beside=beside)
    cast_floats(head, element)
    make = NodeMaker(opset(model), element, scatters=scatters)
    reached = reached_from(head, start)
    if LOGITS not in reached:
        raise AdjointError(f"the logits do not depend on {start!r}: their gradient there is zero everywhere")
    cotangents = {LOGITS: [WEIGHTING]}
    guided: list[str] = []
    for node in reversed(head.graph.node):
        if node.output[0].startswith("camrt_out_") or not any(name in cotangents for name in node.output):
            continue
        if not any(name in reached for name in names_read(node)) or start in node.output:
            continue
        arriving = tuple(summed(make, cotangents.get(name, [])) for name in node.output)
        step = Step(node, graph, make, arriving, reached, relu, guided)
        for name, cotangent in zip(node.input, answered(step), strict=False):
            if cotangent is not None and name in reached:
                cotangents.setdefault(name, []).append(cotangent)
    gradient = summed(make, cotangents.get(start, []))
    if gradient is None:
        raise AdjointError(
            f"no gradient of the logits reaches {start!r}: nothing on the way has a derivative"
        )
    if relu == "guided" and not guided:
        raise AdjointError(
            "guided back-propagation changes how gradients pass ReLUs, and this model has none; "
            "use 'gradient' or 'smoothgrad'"
        )
    make.nodes.append(helper.make_node("Identity", [gradient], [GRADIENT]))
    finished(head, make, batch, graph)
    for number, name in enumerate(given, start=len(beside)):
        take(head, name, beside_name(number), batch, graph)
    drop_what_nothing_needs(head)
    return head


def reached_from(head: onnx.ModelProto, start: str) -> frozenset[str]:
    """The tensors of the head that depend on its start's values, and not only on its shape."""
    reached = {start}
    for node in head.graph.node:
        if node.op_type not in ("Shape", "Size") and any(name in reached for name in names_read(node)):
            reached.update(name for name in node.output if name)
    return frozenset(reached)


def answered(step: Step) -> Sequence[str | None]:
    """The cotangents of a node's inputs."""
    if step.node.op_type in ("Shape", "Size"):  # sizes do not move when values do
        return ()
    if is_rounding(step.node):
        return straight_through(step)
    types = {step.graph.types.get(name) for name in step.node.output if name}
    if types and None not in types and not types & FLOATING and not keeps_whole_numbers(step):
        kinds = ", ".join(sorted(TensorProto.DataType.Name(kind) for kind in types if kind is not None))
        raise step.refuse(
            f"it gives whole numbers, truth values or strings ({kinds}), which have no derivative"
        )
    domain = "" if step.node.domain == "ai.onnx" else step.node.domain
    found = RULES.get((domain, step.node.op_type))
    if found is None:
        raise step.refuse("camrt has no rule for this operator")
    return found(step)


def keeps_whole_numbers(step: Step) -> bool:
    """Whether a node makes its whole numbers as it would make real ones: it moves, adds or scales them."""
    if step.node.op_type == "QuantizeLinear":
        return True
    if step.node.op_type not in ON_WHOLE_NUMBERS:
        return False
    given = {step.graph.types.get(name) for name in step.node.input if name in step.reached}
    return None not in given and not given & FLOATING


def summed(make: NodeMaker, parts: list[str]) -> str | None:
    """The sum of the cotangents that meet at a tensor."""
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else make.add("Sum", *parts)


def vectors_of(graph: Graph, start: str) -> tuple[str, ...]:
    """The vectors (N, F) that the head's matrix products make: small, and much is read to make them."""
    reached = graph.downstream(start)
    nodes = [graph.nodes[index] for index in graph.upstream_nodes(LOGITS, stop=[start])]
    return tuple(
        node.output[0]
        for node in nodes
        if node.op_type in ("Gemm", "MatMul")
        and node.output[0] in reached
        and len(graph.shape(node.output[0]) or ()) == 2
    )


def finished(head: onnx.ModelProto, make: NodeMaker, batch: int | None, graph: Graph) -> None:
    """Puts the adjoint's nodes behind the head's own."""
    logits = graph.shape(LOGITS)
    weighting = helper.make_tensor_value_info(WEIGHTING, make.element, None)
    set_shape(weighting, [batch or "N", logits[1] if logits is not None else "C"])
    head.graph.input.append(weighting)
    head.graph.node.extend(make.nodes)
    head.graph.initializer.extend(make.initializers)
    exit_node = next(node for node in head.graph.node if node.output[0].startswith("camrt_out_"))
    head.graph.node.remove(exit_node)
    del head.graph.output[:]
    for name in (LOGITS, GRADIENT):
        head.graph.output.append(helper.make_tensor_value_info(name, make.element, None))


def take(head: onnx.ModelProto, name: str, outer: str, batch: int | None, graph: Graph) -> None:
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


def drop_what_nothing_needs(head: onnx.ModelProto) -> None:
    """Takes out the nodes and weights that neither output needs."""
    needed = {value.name for value in head.graph.output}
    kept = []
    for node in reversed(head.graph.node):
        if any(name in needed for name in node.output):
            needed.update(names_read(node))
            kept.append(node)
    del head.graph.node[:]
    head.graph.node.extend(reversed(kept))
    drop_unread_initializers(head)
