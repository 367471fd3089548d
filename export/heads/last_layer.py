"""The linear layer that a classifier's logits come from, taken off and replaced by another.

So a network is trained on other classes by its last layer alone, "Pixab-CAM: Attend Pixel, not Channel",
Figure 12 (specification E13): what lies before the layer is run once, and stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from camrt.errors import InputError, UnsupportedModelError
from camrt.export.graph.index import Graph, attribute
from camrt.export.graph.operators import RESHAPING, preserves_values
from camrt.export.graph.upkeep import drop_unused
from camrt.export.rewrites.interface import LOGITS

__all__ = ["LastLayer", "find_last_layer"]

Array = npt.NDArray[np.float64]

WEIGHT, BIAS = "camrt_last_weight", "camrt_last_bias"


@dataclass(frozen=True)
class LastLayer:
    """A classifier's last layer, in a model from `camrt.export.rewrites.interface.standardise`.

    Attributes:
        model: The model, from `camrt_images` to `camrt_logits`.
        features: The tensor (N, K) that the layer reads.
        node: The name of the operator, for messages.
    """

    model: onnx.ModelProto
    features: str
    node: str

    def trunk(self) -> onnx.ModelProto:
        """The model up to the features, (N, K), which are its only output."""
        found = onnx.ModelProto()
        found.CopyFrom(self.model)
        del found.graph.output[:], found.graph.value_info[:]
        found.graph.output.append(helper.make_tensor_value_info(self.features, TensorProto.FLOAT, None))
        drop_unused(found)
        return found

    def with_layer(
        self, weight: Array, bias: Array, labels: Sequence[str], metadata: Mapping[str, str]
    ) -> onnx.ModelProto:
        """The model with another last layer, logits = features · weightᵀ + bias.

        Args:
            weight: (C, K).
            bias: (C,).
            labels: Names of the C classes.
            metadata: Further entries of the file's metadata.

        Raises:
            InputError: Shapes that do not fit each other.
        """
        if weight.ndim != 2 or bias.shape != weight.shape[:1] or len(labels) != len(weight):
            raise InputError(
                f"a last layer needs weights (C, K), biases (C,) and C labels, not {weight.shape}, "
                f"{bias.shape} and {len(labels)}"
            )
        found = self.trunk()
        logits = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["N", len(weight)])
        found.graph.output[0].CopyFrom(logits)
        for name, values in ((WEIGHT, weight), (BIAS, bias)):
            found.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        found.graph.node.append(
            helper.make_node("Gemm", [self.features, WEIGHT, BIAS], [LOGITS], transB=1, name="camrt_last")
        )
        helper.set_model_props(
            found, {**metadata, "camrt.labels": json.dumps(list(labels), ensure_ascii=False)}
        )
        return found


def find_last_layer(model: onnx.ModelProto, graph: Graph) -> LastLayer:
    """The linear layer whose answers are the logits.

    Args:
        model: As `camrt.export.rewrites.interface.standardise` leaves it.
        graph: Of that model.

    Raises:
        UnsupportedModelError: The logits come from something else.
    """
    name = LOGITS
    while (node := graph.producer(name)) is not None:
        if preserves_values(node) or (
            node.op_type in RESHAPING and len(graph.shape(node.input[0]) or ()) == 2
        ):
            name = node.input[0]
            continue
        break
    found = None if node is None else find_features(graph, node)
    if node is None or found is None:
        what = "nothing" if node is None else f"{node.op_type} {node.name!r}"
        raise UnsupportedModelError(
            "the model does not end in one linear layer that could be trained anew: its logits come from "
            f"{what}"
        )
    if len(graph.shape(found) or ()) != 2:
        raise UnsupportedModelError(
            f"the last layer reads {found!r} of shape {graph.shape(found)}, and not (N, K)"
        )
    return LastLayer(model, found, node.name or node.op_type)


def find_features(graph: Graph, node: NodeProto) -> str | None:
    """What a linear layer reads: a Gemm, or a MatMul with constants added or not; None of any other."""
    if node.op_type == "Gemm":
        plain = not attribute(node, "transA", 0)
        fixed = all(name not in graph.dependent for name in node.input[1:] if name)
        return str(node.input[0]) if plain and fixed and node.input[0] in graph.dependent else None
    if node.op_type == "Add":
        moving = [name for name in node.input if name in graph.dependent]
        inner = graph.producer(moving[0]) if len(moving) == 1 else None
        return find_features(graph, inner) if inner is not None and inner.op_type == "MatMul" else None
    if node.op_type == "MatMul" and node.input[1] not in graph.dependent:
        return str(node.input[0]) if node.input[0] in graph.dependent else None
    return None
