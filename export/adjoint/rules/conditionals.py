"""If: the cotangents go back through the branch that was taken."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import GraphProto, NodeProto, helper, numpy_helper

from camrt.export.adjoint.backward_pass import BackwardPass, tensors_read
from camrt.export.adjoint.registry import BackwardStep, rule
from camrt.export.graph.index import Graph, find_dependents, names_read
from camrt.export.graph.node_maker import NodeMaker

__all__: list[str] = []


@rule("If")
def _branches(step: BackwardStep) -> Sequence[str | None]:
    """Another If of the same condition, whose branches hold the way back through the first one's.

    What a branch computed on its way is not seen from outside, so that it is computed again.
    """
    make = step.make
    read = tensors_read(step.node)
    wanted = [name for name in read[1:] if name in step.reached]
    if not wanted:
        return step.no_gradient()
    branches = {
        name: build_backward_branch(step, step.attribute(name), wanted)
        for name in ("then_branch", "else_branch")
    }
    made = [make.new_name() for _ in wanted]
    make.nodes.append(helper.make_node("If", [step.input(0)], made, **branches))
    found = dict(zip(wanted, made, strict=True))
    return [found.get(name) for name in read]


def build_backward_branch(step: BackwardStep, branch: GraphProto, wanted: Sequence[str]) -> GraphProto:
    """The graph that gives the cotangents of what a branch reads from outside."""
    outer = step.make
    prefix = outer.new_name()
    make = NodeMaker(
        outer.opset, outer.element, prefix=f"{prefix}_back", supports_scatter_add=outer.supports_scatter_add
    )
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in branch.node]
    graph = index_branch(step, branch, wanted)
    reached = find_dependents(wanted, nodes, through_sizes=False)
    walk = BackwardPass(graph, make, reached, step.relu, step.guided, step.dead_ends)
    for value, cotangent in zip(branch.output, step.cotangents, strict=True):
        if cotangent is not None and value.name in reached:
            walk.cotangents.setdefault(value.name, []).append(cotangent)
    walk.propagate_back(nodes)
    made = []
    for name in wanted:
        found = walk.cotangent(name) or make.zeros(make.shape_of(name))
        made.append(make.add("Identity", found))
    return helper.make_graph(
        [*nodes, *make.nodes],
        prefix,
        [],
        [helper.make_tensor_value_info(name, make.element, None) for name in made],
        [*branch.initializer, *make.initializers],
    )


def index_branch(step: BackwardStep, branch: GraphProto, wanted: Sequence[str]) -> Graph:
    """The index of a branch as a graph of its own: what it reads from outside are inputs and constants."""
    outside = {name for node in branch.node for name in names_read(node)}
    outside -= {name for node in branch.node for name in node.output}
    outside -= {tensor.name for tensor in branch.initializer}
    outside |= {value.name for value in branch.output} & set(wanted)
    inputs, constants = [], list(branch.initializer)
    for name in [wanted[0], *sorted(outside - {wanted[0]})]:
        value = step.constant(name)
        if value is not None:
            constants.append(numpy_helper.from_array(value, name))
            continue
        element = step.graph.types.get(name, step.make.element)
        shape: list[int | None] = list(step.shape(name))
        if not step.fixed_size:  # which sizes may be relied on is read off the first input
            shape[1:] = [None] * (len(shape) - 1) if name == wanted[0] else shape[1:]
        inputs.append(helper.make_tensor_value_info(name, element, shape))
    outputs = [onnx.ValueInfoProto(name=value.name) for value in branch.output]
    part = helper.make_graph(list(branch.node), "branch", inputs, outputs, constants)
    model = helper.make_model(
        part,
        opset_imports=list(step.graph.model.opset_import),
        ir_version=step.graph.model.ir_version,
    )
    return Graph(model, step.shape(wanted[0]))
