"""The second derivative of logits along the activation itself, in the graph of their gradient.

The adjoint of a head is a graph of plain operators from the activation A and a weighting to the gradient g.
It is walked back once more, with A for the cotangent of g: what comes out at A is (∂g/∂A)ᵀ·A, the Hessian of
the weighted logits times A, for the Hessian is symmetric; and what comes out at the weighting, in which g is
linear, is what the logits rise by along A.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

from camrt.export.adjoint.backward_pass import BackwardPass
from camrt.export.adjoint.gradient_graph import GRADIENT, WEIGHTING, build_adjoint_model
from camrt.export.graph.index import Graph, find_dependents, opset, set_shape
from camrt.export.graph.node_maker import NodeMaker
from camrt.export.graph.upkeep import drop_unused

__all__ = ["CURVATURE", "RISE", "build_curvature_model"]

CURVATURE = "camrt_curvature"
RISE = "camrt_rise"


def build_curvature_model(
    model: onnx.ModelProto,
    graph: Graph,
    start: str,
    *,
    input_name: str,
    batch: int | None,
    extra_inputs: Sequence[str] = (),
    supports_scatter_add: bool = True,
) -> onnx.ModelProto:
    """The graph from an activation A and a weighting of the logits to what bends along A.

    Inputs as in `build_adjoint_model`. Outputs: `camrt_gradient` g = ∂(Σ_c w_c·logit_c)/∂A, `camrt_curvature`
    H·A, H the Hessian of the same sum, zeros where it is linear in pieces, both of A's shape; and
    `camrt_rise` (∂logits/∂A)·A, (N, C), what each logit rises by along A.

    Args:
        model: The standardised model; it is not changed.
        graph: Its index.
        start: The activation.
        input_name: Name the first input gets.
        batch: Fixed batch size of the graph; None when it is open.
        extra_inputs: Tensors that go around the cut; no gradient is followed into them.
        supports_scatter_add: Whether the runtime has a ScatterElements that adds.

    Raises:
        AdjointError: An operator of the head, or of its adjoint, has no rule.
    """
    made = build_adjoint_model(
        model,
        graph,
        start,
        input_name=input_name,
        batch=batch,
        extra_inputs=extra_inputs,
        supports_scatter_add=supports_scatter_add,
    )
    shape = graph.shape(start)
    assert shape is not None
    first = Graph(with_batch(made, shape[0]), shape)
    make = NodeMaker(opset(made), prefix="camrt_curvature", supports_scatter_add=supports_scatter_add)
    reached = find_dependents([input_name, WEIGHTING], first.nodes, through_sizes=False)
    walk = BackwardPass(first, make, reached, "plain", [], [], {GRADIENT: [input_name]})
    walk.propagate_back(first.nodes, input_name)
    for name, of in ((CURVATURE, input_name), (RISE, WEIGHTING)):
        found = walk.cotangent(of) or make.zeros(make.shape_of(of))
        make.nodes.append(helper.make_node("Identity", [found], [name]))
    made.graph.node.extend(make.nodes)
    made.graph.initializer.extend(make.initializers)
    del made.graph.output[:]
    for name in (GRADIENT, CURVATURE, RISE):
        made.graph.output.append(helper.make_tensor_value_info(name, make.element, None))
    drop_unused(made)
    return made


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The model with so many rows in every input, so that shapes can be inferred."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for item in fixed.graph.input:
        sizes = item.type.tensor_type.shape.dim
        set_shape(item, [batch, *(axis.dim_param or axis.dim_value for axis in sizes[1:])])
    return fixed
