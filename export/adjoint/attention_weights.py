"""The attention weights of a vision transformer, as graphs of their own.

A layer's weights are the softmax over keys that its values are then mixed by: (N, heads, L, L), or with the
heads among the images, (N·heads, L, L), L the tokens. They are found by that shape, and what follows them is
followed like any other tensor's. Graphs that show them are apart from the trunk's: as outputs of that they
would keep a runtime from joining what makes them, for every prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import onnx
from onnx import NodeProto, TensorProto, helper

from camrt.errors import CutError
from camrt.export.adjoint.backward_pass import BackwardPass
from camrt.export.adjoint.gradient_graph import GRADIENT, WEIGHTING
from camrt.export.adjoint.registry import BackwardStep
from camrt.export.adjoint.rules.attention import spell_attention
from camrt.export.graph.index import Graph, attribute, find_dependents, opset, set_shape
from camrt.export.graph.node_maker import NodeMaker
from camrt.export.graph.upkeep import drop_unused, replace_nodes
from camrt.export.heads.cut import find_clean_cuts
from camrt.export.rewrites.float_types import cast_floats
from camrt.export.rewrites.interface import LOGITS

__all__ = ["HeadFusion", "build_attention_model", "build_relevance_model", "find_attention", "layer_name"]

HeadFusion = Literal["mean", "max", "min"]
BY_HEADS = 4  # axes of weights that have one of heads
REDUCTIONS: dict[HeadFusion, str] = {"mean": "ReduceMean", "max": "ReduceMax", "min": "ReduceMin"}


def layer_name(index: int) -> str:
    """Name of the output that shows a layer's weights."""
    return f"camrt_attention_{index}"


def spell_out_attention(model: onnx.ModelProto, graph: Graph) -> tuple[onnx.ModelProto, Graph]:
    """A model whose Attention nodes are plain ones, and its index; the model itself where it has none.

    Args:
        model: The standardised model; it is not changed.
        graph: Its index.

    Raises:
        AdjointError: Such a node reads keys of earlier steps, or padded lengths.
    """
    if all(node.op_type != "Attention" for node in graph.nodes):
        return model, graph
    plain, nodes = onnx.ModelProto(), list[NodeProto]()
    plain.CopyFrom(model)
    for number, node in enumerate(model.graph.node):
        if node.op_type != "Attention":
            nodes.append(node)
            continue
        element = graph.types.get(node.input[0], TensorProto.FLOAT)
        make = NodeMaker(opset(model), element, prefix=f"camrt_attention_{number}")
        spell_attention(BackwardStep(node, graph, make, (None,), frozenset(), "plain", [], []))
        nodes.extend(make.nodes)
        plain.graph.initializer.extend(make.initializers)
    replace_nodes(plain.graph, nodes)
    indexed = Graph(plain, graph.input_shape)
    indexed.shapes.update(graph.shapes)
    indexed.types.update(graph.types)
    return plain, indexed


def find_attention(graph: Graph, tokens: int) -> list[str]:
    """The attention weights that the logits are made with, in the order of their layers.

    Args:
        graph: The graph.
        tokens: Tokens L of an image.
    """
    found = []
    count = graph.input_shape[0]
    for index in graph.upstream_nodes(LOGITS):
        node = graph.nodes[index]
        shape = graph.shape(node.output[0]) or ()
        if (
            node.op_type == "Softmax"
            and node.output[0] in graph.dependent
            and len(shape) in (3, 4)
            and shape[-2:] == (tokens, tokens)
            and attribute(node, "axis", -1) in (-1, len(shape) - 1)
            and shape[0] % count == 0
            and (len(shape) == 3 or shape[0] == count)
        ):
            found.append(node.output[0])
    return found


def by_heads(graph: Graph, make: NodeMaker, name: str, numbers: str) -> str:
    """Numbers of the shape of a layer's weights as (N, heads, L, L)."""
    shape = graph.shape(name)
    assert shape is not None
    if len(shape) == BY_HEADS:
        return numbers
    return make.reshape(numbers, [-1, shape[0] // graph.input_shape[0], *shape[1:]])


def build_attention_model(
    model: onnx.ModelProto, graph: Graph, weights: Sequence[str], fusion: HeadFusion
) -> onnx.ModelProto:
    """The graph from images to each layer's weights (N, L, L), the heads taken together.

    Args:
        model: The standardised model; it is not changed.
        graph: Its index.
        weights: What `find_attention` found.
        fusion: How the heads are taken together.
    """
    part = copy_of(model)
    make = NodeMaker(opset(model), prefix="camrt_attend")
    del part.graph.output[:]
    for index, name in enumerate(weights):
        fused = make.reduce(REDUCTIONS[fusion], by_heads(graph, make, name, name), [1], keepdims=False)
        make.nodes.append(helper.make_node("Identity", [fused], [layer_name(index)]))
        value = helper.make_tensor_value_info(layer_name(index), TensorProto.FLOAT, None)
        part.graph.output.append(value)
    part.graph.node.extend(make.nodes)
    part.graph.initializer.extend(make.initializers)
    drop_unused(part)
    return part


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which everything is computed in float32."""
    part = onnx.ModelProto()
    part.CopyFrom(model)
    cast_floats(part, TensorProto.FLOAT)
    return part


def copy_readout(
    part: onnx.ModelProto,
    tail: Sequence[NodeProto],
    last: str,
    block: str,
    prefix: str,
    shapes: dict[str, tuple[int, ...]],
    types: dict[str, int],
) -> tuple[list[NodeProto], str]:
    """Gives a model nodes that read the mean of a block's tokens as it reads its last ones.

    Args:
        part: The model, which is changed in place.
        tail: The nodes from the last block's tokens to the logits.
        last: Those tokens.
        block: The block's tokens.
        prefix: What the names of new tensors begin with.
        shapes: Shapes of tensors by their names, to which those of new ones are added.
        types: Likewise their element types.

    Returns:
        The nodes in order, and the logits that they end in.
    """
    make = NodeMaker(opset(part), prefix=f"{prefix}mean")
    mean = make.reduce("ReduceMean", block, [1], keepdims=True)
    whole = make.expanded_like(mean, block)
    shapes[mean] = (shapes[block][0], 1, shapes[block][2])
    shapes[whole] = shapes[block]
    names = {last: whole, **{made: prefix + made for node in tail for made in node.output if made}}
    nodes = list(make.nodes)
    for node in tail:
        twin = NodeProto()
        twin.CopyFrom(node)
        twin.ClearField("name")  # names are of one node each
        for own in (twin.input, twin.output):
            for place, name in enumerate(own):
                own[place] = names.get(name, name)
        nodes.append(twin)
    for name, twin_name in names.items():
        if name in shapes:
            shapes[twin_name] = shapes[name]
        types[twin_name] = types.get(name, TensorProto.FLOAT)
    part.graph.node.extend(nodes)
    part.graph.initializer.extend(make.initializers)
    return nodes, names[LOGITS]


def find_block_outputs(graph: Graph, weights: Sequence[str]) -> list[str]:
    """For each layer of attention the tokens (N, L, K) that its block gives.

    They are the last sum before the next layer's attention, of the last layer before the logits, of a block
    and what goes around it that every path runs through.

    Raises:
        CutError: There is none.
    """
    clean = find_clean_cuts(graph)
    tokens = graph.shape(weights[0])
    assert tokens is not None
    sums = [
        node.output[0]
        for node in graph.nodes
        if node.op_type == "Add"
        and node.output[0] in clean
        and all(name in graph.dependent for name in node.input)
        and (shape := graph.shape(node.output[0])) is not None
        and len(shape) == 3
        and shape[:2] == (graph.input_shape[0], tokens[-1])
    ]
    found = []
    for name, following in zip(weights, [*weights[1:], LOGITS], strict=True):
        before, behind = graph.upstream(following), graph.downstream(name)
        own = [one for one in sums if one in before and one in behind]
        if not own:
            raise CutError(
                f"what the block of attention {name!r} gives was not found: no sum of it and of what goes "
                "around it, that all logits are made of"
            )
        found.append(own[-1])
    return found


def build_relevance_model(
    model: onnx.ModelProto,
    graph: Graph,
    weights: Sequence[str],
    *,
    batch: int | None,
    supports_scatter_add: bool = True,
) -> onnx.ModelProto:
    """The graph from images and a weighting of the logits to LeGrad's relevance of each token.

    Outputs: `camrt_logits` and `camrt_gradient` (N, L): the mean over layers, heads and queries of what is
    positive of ∂s/∂A, A a layer's weights and s the weighted logits that the model's last part makes of the
    mean of its block's tokens.

    Args:
        model: The standardised model; it is not changed.
        graph: Its index.
        weights: What `find_attention` found.
        batch: Fixed batch size; None for an open axis.
        supports_scatter_add: Whether the runtime has a ScatterElements that adds.

    Raises:
        CutError: A block's tokens were not found, or something goes around the last ones.
        AdjointError: An operator has no gradient.
    """
    part = copy_of(model)
    make = NodeMaker(opset(model), supports_scatter_add=supports_scatter_add)
    blocks = find_block_outputs(graph, weights)
    last, behind = blocks[-1], graph.downstream(blocks[-1])
    tail = [graph.nodes[index] for index in graph.upstream_nodes(LOGITS, stop=[last])]
    tail = [node for node in tail if any(name in behind for name in node.output)]
    shapes, types = dict(graph.shapes), dict(graph.types)
    shown = []
    for index, (name, block) in enumerate(zip(weights, blocks, strict=True)):
        readout, end = copy_readout(part, tail, last, block, f"camrt_layer_{index}_", shapes, types)
        nodes = [*(graph.nodes[i] for i in graph.upstream_nodes(block, stop=[name])), *readout]
        reached = find_dependents([name], nodes, through_sizes=False)
        indexed = Graph(part, graph.input_shape, inferred=(shapes, types))
        walk = BackwardPass(indexed, make, reached, "plain", [], [], {end: [WEIGHTING]})
        walk.propagate_back(nodes, name)
        gradient = walk.cotangent(name)
        if gradient is None:
            raise CutError(f"the logits do not depend on attention {name!r}")
        positive = by_heads(graph, make, name, make.add("Relu", gradient))
        shown.append(make.reduce("ReduceMean", positive, [1, 2], keepdims=False))
    total = shown[0] if len(shown) == 1 else make.add("Sum", *shown)
    mean = make.add("Div", total, make.number(float(len(shown))))
    make.nodes.append(helper.make_node("Identity", [mean], [GRADIENT]))
    weighting = helper.make_tensor_value_info(WEIGHTING, TensorProto.FLOAT, None)
    set_shape(weighting, [batch or "N", "C"])
    part.graph.input.append(weighting)
    part.graph.node.extend(make.nodes)
    part.graph.initializer.extend(make.initializers)
    del part.graph.output[:]
    for output in (LOGITS, GRADIENT):
        part.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    drop_unused(part)
    return part
