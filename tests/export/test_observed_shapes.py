"""Shapes found by running: of the first unknown tensors, from which inference goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from camrt.engine.runtime import make_onnx_runtime
from camrt.engine.shape_probe import make_shape_observer
from camrt.export.graph.index import Graph


def lossy_model(steps: int) -> onnx.ModelProto:
    """Convolutions, each behind a Compress of its rows, whose number inference does not tell."""
    nodes, weights, source = [], [], "images"
    for step in range(steps):
        kernel = np.full((4, 4 if step else 3, 3, 3), 0.1, np.float32)
        weights += [numpy_helper.from_array(kernel, f"weight_{step}")]
        weights += [numpy_helper.from_array(np.ones(8, np.bool_), f"kept_{step}")]
        nodes += [
            helper.make_node("Conv", [source, f"weight_{step}"], [f"conv_{step}"], pads=[1, 1, 1, 1]),
            helper.make_node("Compress", [f"conv_{step}", f"kept_{step}"], [f"some_{step}"], axis=2),
            helper.make_node("Relu", [f"some_{step}"], [f"relu_{step}"]),
        ]
        source = f"relu_{step}"
    nodes.append(helper.make_node("GlobalAveragePool", [source], ["pooled"]))
    graph = helper.make_graph(
        nodes,
        "lossy",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("pooled", TensorProto.FLOAT, None)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def observed(model: onnx.ModelProto) -> tuple[Graph, list[list[str]]]:
    """The model's graph after its unknown shapes were observed, and what was asked for each time."""
    watch, asked = make_shape_observer(make_onnx_runtime(threads=1)), []

    def observer(part: onnx.ModelProto, shape: tuple[int, ...], unknown: Any) -> Any:
        asked.append(list(unknown))
        return watch(part, shape, unknown)

    graph = Graph(model, (2, 3, 8, 8), observer)
    assert graph.observe("pooled")
    return graph, asked


def test_inference_goes_on_from_the_first_unknown_shape():
    graph, asked = observed(lossy_model(1))
    assert asked == [["some_0"]]
    assert graph.shape("relu_0") == (2, 4, 8, 8)
    assert graph.shape("pooled") == (2, 4, 1, 1)


def test_many_unknown_shapes_take_few_runs():
    graph, asked = observed(lossy_model(6))
    assert asked[:3] == [["some_0"], ["some_1"], ["some_2"]]
    assert len(asked) == 4
    assert all(graph.shape(f"relu_{step}") == (2, 4, 8, 8) for step in range(6))


def test_a_model_that_cannot_be_run_is_tried_once():
    asked = []
    graph = Graph(lossy_model(3), (2, 3, 8, 8), lambda *given: asked.append(given) or {})
    assert not graph.observe("pooled")
    assert len(asked) == 1
