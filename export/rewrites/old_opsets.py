"""Files of operator sets 7 and 8, as the first Keras, MXNet and Caffe2 exporters wrote them, in set 9.

Between set 7 and set 9 three operators changed their form; all others took more than before and meant the
same ("Changelog" of ONNX's operators, https://github.com/onnx/onnx/blob/main/docs/Changelog.md):

- BatchNormalization lost `spatial`, which says whether channels are normalised (1, the default) or elements.
- Upsample takes its scales as an input.
- Scan lost its batch axis.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from camrt.errors import UnsupportedModelError
from camrt.export.budget import with_deadline
from camrt.export.graph.traversal import node_label, node_subgraphs, normalise_domain

__all__ = ["raise_opset"]

_FIRST = 9


def raise_opset(model: onnx.ModelProto) -> None:
    """Brings a file of operator set 7 or 8 to set 9, in place; leaves others as they are.

    Args:
        model: A model without local functions, whose subgraphs are known not to nest too deeply.

    Raises:
        UnsupportedModelError: A node in a form that set 9 does not have.
    """
    own = [item for item in model.opset_import if normalise_domain(item.domain) == ""]
    if all(item.version >= _FIRST for item in own):
        return
    _raise(model.graph)
    for item in own:
        item.version = _FIRST


def _raise(graph: onnx.GraphProto) -> None:
    for node in with_deadline(graph.node):
        for inner in node_subgraphs(node):
            _raise(inner)
        if normalise_domain(node.domain):
            continue
        if node.op_type == "BatchNormalization" and (spatial := _taken(node, "spatial")) is not None:
            if spatial.i != 1:
                raise UnsupportedModelError(
                    f"{node_label(node)} normalises elements, not channels (spatial=0)"
                )
        elif node.op_type == "Upsample" and (scales := _taken(node, "scales")) is not None:
            name = f"{node.output[0] if node.output else ''}_scales"
            stored = numpy_helper.from_array(np.array(scales.floats, np.float32), name)
            graph.initializer.append(stored)
            node.input.append(name)
        elif node.op_type == "Scan":
            raise UnsupportedModelError(f"{node_label(node)} is a Scan of opset 8: export the model again")


def _taken(node: NodeProto, name: str) -> onnx.AttributeProto | None:
    """An attribute, which is taken off its node."""
    for index, item in enumerate(node.attribute):
        if item.name == name:
            copy = onnx.AttributeProto()
            copy.CopyFrom(item)
            del node.attribute[index]
            return copy
    return None
