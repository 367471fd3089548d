"""Writing a runtime's own operators in standard ones, when a file is read.

A file may hold operators that only ONNX Runtime has: because its optimiser saved what it had joined
(`fused`, `transformers`), or laid out for one processor (`blocked`), or because a quantiser wrote layers of
whole numbers (`quantised`). What follows the reading, the analysis of heads and the gradients, knows standard
operators. So each of these is written in them here, once, so that the graph computes what it computed before.

Nodes are rewritten in order. What is known of a tensor's type when its reader is rewritten comes from the
check of the sizes of results, which sees every new node before the next is made.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TypeProto

from camrt.export.budget import with_deadline
from camrt.export.expanding import fused, scalars, transformers  # noqa: F401  (registers them)
from camrt.export.expanding.blocked import find_blocks, refuse_blocked
from camrt.export.expanding.empty_inputs import CRASHING_ON_EMPTY, refuse_empty_inputs
from camrt.export.expanding.modulo import refuse_modulo
from camrt.export.expanding.quantised import carry_quantised, note_quantised
from camrt.export.expanding.registry import EXPANSIONS, Expansion, GraphRewrite
from camrt.export.graph.result_sizes import ResultSizes
from camrt.export.graph.traversal import normalise_domain, walk_nodes
from camrt.export.graph.upkeep import drop_unread_initializers, replace_nodes, stored_tensors
from camrt.export.limits import ReadingLimits

__all__ = ["expand_operators"]


def expand_operators(
    model: onnx.ModelProto, versions: Mapping[str, int], limits: ReadingLimits
) -> Mapping[str, TypeProto]:
    """Replaces operators that only ONNX Runtime has, in place, and checks the size of every result.

    Args:
        model: A model without local functions, whose nodes are in order and whose tensors have been checked.
        versions: The operator sets it uses.
        limits: What is allowed.

    Returns:
        What is known of the types of the graph's tensors.

    Raises:
        ModelFileError: A result with a negative dimension, by a constant operand.
        UnsafeModelError: A result with more bytes or dimensions than the limits allow.
        UnsupportedModelError: An operator in a form that is not known.
    """
    graph = model.graph
    sizes = ResultSizes(graph, versions, limits)
    into = GraphRewrite(graph, versions[""], stored_tensors(graph), sizes.types, _names(graph, limits))
    into.block_size, into.channels = find_blocks(graph.node, into.constants)
    changed = False
    for node in with_deadline(graph.node):
        step = Expansion(node, into)
        made, stored = len(into.nodes), len(graph.initializer)
        if any(node.output) and (node.output[0] or node.op_type in CRASHING_ON_EMPTY):
            EXPANSIONS.get((normalise_domain(node.domain), node.op_type), carry_quantised)(step)
        if len(into.nodes) == made:
            note_quantised(step)
            into.nodes.append(node)
        else:
            changed = True
        for tensor in graph.initializer[stored:]:
            sizes.store(tensor)
        for new in into.nodes[made:]:
            sizes.add(new)
    refuse_blocked(walk_nodes(into.nodes, limits.max_depth).nodes)
    refuse_modulo(into.nodes, into.constants)
    refuse_empty_inputs(into.nodes)
    if not changed:
        return sizes.types
    replace_nodes(graph, into.nodes)
    drop_unread_initializers(model)
    return sizes.types


def _names(graph: onnx.GraphProto, limits: ReadingLimits) -> set[str]:
    """Every name of a value, those in subgraphs included: a new one must hide none."""
    found = walk_nodes(graph.node, limits.max_depth)
    names = {name for node in found.nodes for name in (*node.input, *node.output)}
    names.update(item.name for item in [*graph.input, *graph.output, *graph.initializer])
    names.update(item.tensor.name for item in found.tensors)
    names.update(sparse.values.name for sparse in graph.sparse_initializer)
    return names
