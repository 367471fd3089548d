"""What follows the tokens of a vision transformer's last block, of which some are kept and others zero.

The block's normalisation sees all tokens, and what is kept of its answer goes into attention; of the tokens
themselves the same are kept for the sum around the block. A token that is zero before a normalisation would
be its bias behind it.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from camrt.errors import CutError
from camrt.export.graph.index import Graph, set_shape
from camrt.export.graph.upkeep import drop_unused, replace_nodes
from camrt.export.heads.cut import build_head_model, find_clean_cuts
from camrt.export.rewrites.float_types import cast_floats
from camrt.export.rewrites.interface import LOGITS

__all__ = ["KEPT", "TOKENS", "build_kept_tokens_model", "build_tokens_model", "find_block_tokens"]

TOKENS = "camrt_block_tokens"
KEPT = "camrt_kept"


def find_block_tokens(graph: Graph, name: str, attention: str) -> str:
    """The tokens that a block reads by one normalisation and by the sum around it.

    Args:
        graph: The graph.
        name: Tokens that are taken where a block reads them.
        attention: Else those that lie last before these attention weights.

    Raises:
        CutError: There are none.
    """
    clean, size = find_clean_cuts(graph), graph.shape(name)
    before = [made for index in graph.upstream_nodes(attention) for made in graph.nodes[index].output]
    for tokens in (name, *reversed(before)):
        readers = [graph.nodes[index] for index in graph.consumers.get(tokens, ())]
        norms = [node for node in readers if node.op_type == "LayerNormalization"]
        if tokens in clean and graph.shape(tokens) == size and len(norms) == 1 < len(readers):
            return str(tokens)
    raise CutError(
        "no block was found that reads its tokens by one layer normalisation and by the sum around it: "
        "'recipro', 'gradcam' and 'pixab' explain this model"
    )


def build_tokens_model(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The graph from images to tokens (N, L, K), float32.

    Args:
        model: The standardised model; it is not changed.
        name: The tokens.
    """
    part = onnx.ModelProto()
    part.CopyFrom(model)
    cast_floats(part, TensorProto.FLOAT)
    del part.graph.output[:]
    part.graph.node.append(helper.make_node("Identity", [name], [TOKENS]))
    part.graph.output.append(helper.make_tensor_value_info(TOKENS, TensorProto.FLOAT, None))
    drop_unused(part)
    return part


def build_kept_tokens_model(
    model: onnx.ModelProto, graph: Graph, name: str, batch: int | None
) -> onnx.ModelProto:
    """The graph from tokens (N, L, K) and how much of each is kept, (N, L, 1), to the logits.

    Args:
        model: The standardised model; it is not changed.
        graph: Its index.
        name: What `find_block_tokens` found.
        batch: Fixed batch size; None for an open axis.
    """
    part = build_head_model(model, graph, name, LOGITS, input_name=TOKENS, batch=batch)
    cast_floats(part, TensorProto.FLOAT)
    norm = next(
        node for node in part.graph.node if node.op_type == "LayerNormalization" and name in node.input
    )
    normalised = norm.output[0]
    nodes = []
    for node in part.graph.node:
        if node is not norm and node.op_type != "Shape":
            for place, read in enumerate(node.input):
                if read in (name, normalised):
                    node.input[place] = f"{KEPT}_{read}"
        nodes.append(node)
        for made in node.output:
            if made in (name, normalised):
                nodes.append(helper.make_node("Mul", [made, KEPT], [f"{KEPT}_{made}"]))
    replace_nodes(part.graph, nodes)
    tokens = graph.shape(name)
    assert tokens is not None
    kept = helper.make_tensor_value_info(KEPT, TensorProto.FLOAT, None)
    set_shape(kept, [batch or "N", tokens[1], 1])
    part.graph.input.append(kept)
    return part
