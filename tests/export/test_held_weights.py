"""Weights beside a graph: copies name them, and they live as long as somebody has them."""

from __future__ import annotations

import gc

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from camrt.export.graph.held_weights import held_weight, hold_weights, tensor_values
from camrt.export.graph.index import Graph

LARGE = np.random.default_rng(0).standard_normal((128, 256), np.float32)
SMALL = np.arange(4, dtype=np.float32)


def model_with_weights() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "large"], ["y"])],
        "weights",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 128])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 256])],
        [numpy_helper.from_array(LARGE, "large"), numpy_helper.from_array(SMALL, "small")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_a_copy_has_the_same_array_and_not_its_bytes():
    light, arrays = hold_weights(model_with_weights())
    copy = onnx.ModelProto()
    copy.CopyFrom(light)
    assert len(copy.SerializeToString()) < 1000
    large, small = copy.graph.initializer
    assert held_weight(large) is arrays[0]
    assert np.array_equal(arrays[0], LARGE)
    assert held_weight(small) is None
    assert np.array_equal(tensor_values(small), SMALL)


def test_the_index_of_a_graph_keeps_its_weights():
    light, arrays = hold_weights(model_with_weights())
    graph = Graph(light, (1, 128))
    del arrays
    gc.collect()
    assert np.array_equal(graph.constant("large"), LARGE)


def test_a_weight_that_nobody_has_any_more_is_gone():
    light, arrays = hold_weights(model_with_weights())
    del arrays
    gc.collect()
    with pytest.raises(KeyError):
        held_weight(light.graph.initializer[0])
