"""An ONNX graph as the steps from the images to the logits, see `camrt.export.heads.flow`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from onnx import NodeProto

from camrt.export.geometry.axis_parts import Roles
from camrt.export.geometry.axis_roles import read_integers
from camrt.export.graph.index import Graph, names_read
from camrt.export.graph.operators import ELEMENTWISE_UNARY, QUANTISERS, RESHAPING, preserves_values
from camrt.export.heads.flow import Flow, Kind, Operation
from camrt.export.rewrites.interface import LOGITS

__all__ = ["build_flow"]

LEARNED = frozenset(
    {
        "BatchNormalization", "Conv", "ConvTranspose", "FusedConv", "FusedMatMul", "Gemm",
        "LayerNormalization", "MatMul", "MatMulInteger", "QGemm", "QLinearConv", "QLinearMatMul",
    }
)  # fmt: skip
ATTENDING = frozenset({"Attention", "Einsum", "MatMul", "MultiHeadAttention"})


def build_flow(graph: Graph, axes: Mapping[str, Roles]) -> Flow[str]:
    """The steps of a graph.

    Args:
        graph: The graph.
        axes: What is known of its tensors' axes (`camrt.export.geometry.axis_roles.find_axis_roles`).
    """
    nodes = (graph.nodes[index] for index in graph.upstream_nodes(LOGITS))
    return Flow([make_operation(graph, node, axes) for node in nodes], graph.input_name, LOGITS)


def make_operation(graph: Graph, node: NodeProto, axes: Mapping[str, Roles]) -> Operation[str]:
    """What a node does."""
    reads = tuple(name for name in names_read(node) if name in graph.dependent)
    spread = tuple(name for name in reads if len(graph.shape(name) or ()) > 2)
    makes = tuple(name for name in node.output if name)
    kind = classify_node(graph, node)
    return Operation(
        reads, makes, kind, node.op_type in LEARNED, spread, mixing_kind(graph, node, spread, axes)
    )


def classify_node(graph: Graph, node: NodeProto) -> Kind:
    """What a node does to the first tensor it reads."""
    operator = node.op_type
    if preserves_values(node):
        return "keeps"
    if operator in RESHAPING:
        return "reshapes"
    if operator == "AveragePool":
        return "averages"
    if operator in ELEMENTWISE_UNARY | QUANTISERS | {"BatchNormalization"}:
        return "by-channel"
    if operator == "Conv":
        return "pointwise" if (graph.shape(node.input[1]) or ())[2:] == (1, 1) else "other"
    if operator in ("Gemm", "MatMul"):
        return "linear" if graph.is_constant(node.input[1]) else "other"
    if operator == "Add" and any(graph.is_constant(name) for name in node.input):
        return "shifts"
    return "other"


def mixing_kind(
    graph: Graph, node: NodeProto, spread: Sequence[str], axes: Mapping[str, Roles]
) -> Literal["", "always", "pairs"]:
    """Whether a node takes several cells together."""
    if node.op_type in ATTENDING:
        return "pairs"
    if node.op_type.startswith("Global") or node.op_type == "AveragePool":
        return "always"
    if not spread:
        return ""
    shape, after = graph.shape(spread[0]) or (), graph.shape(node.output[0]) or ()
    gone: Sequence[int] = ()
    if node.op_type.startswith("Reduce"):
        gone = read_integers(graph, node, "axes", 1) or range(len(shape))
    elif node.op_type in ("Flatten", "Reshape") and len(after) == 2 and after[0] == shape[0]:
        gone = range(1, len(shape))
    roles = axes.get(spread[0], ("",) * len(shape))
    there = [axis for axis in gone if -len(roles) <= axis < len(roles)]
    return "always" if any(roles[axis] not in ("", "n", "1") for axis in there) else ""
