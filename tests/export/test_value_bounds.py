"""Bounds hold: what plain onnxruntime gives on any numbers lies within them; and they are tight."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from camrt.export.graph.index import Graph
from camrt.export.outputs.value_bounds import find_bounds

INF = math.inf
F = np.float32

# Operators from "x" (N, 4) to "y", what else they read, and the tightest interval that is known of y.
CASES: dict[str, tuple[list[str], dict[str, Any], tuple[float, float]]] = {
    "softmax": (["Softmax x y"], {}, (0, 1)),
    "tanh-to-unit": (["Tanh x t", "Add t one u", "Mul u half y"], {"one": F(1), "half": F(0.5)}, (0, 1)),
    "erf-to-unit": (["Erf x t", "Add t one u", "Div u two y"], {"one": F(1), "two": F(2)}, (0, 1)),
    "sigmoid-by-hand": (["Neg x n", "Exp n e", "Add e one d", "Div one d y"], {"one": F(1)}, (0, 1)),
    "one-minus": (["Sigmoid x s", "Sub one s y"], {"one": F(1)}, (0, 1)),
    "negated": (["Sigmoid x s", "Neg s y"], {}, (-1, 0)),
    "product": (["Sigmoid x s", "Tanh x t", "Mul s t y"], {}, (-1, 1)),
    "square": (["Tanh x t", "Mul t t y"], {}, (0, 1)),
    "power": (["Tanh x t", "Pow t two y"], {"two": F(2)}, (0, 1)),
    "root": (["Sigmoid x s", "Sqrt s y"], {}, (0, 1)),
    "absolute": (["Tanh x t", "Abs t y"], {}, (0, 1)),
    "relu": (["Relu x y"], {}, (0, INF)),
    "relu-six": (["Clip x low high y"], {"low": F(0), "high": F(6)}, (0, 6)),
    "lower-bound-alone": (["Clip x low y"], {"low": F(-2)}, (-2, INF)),
    "upper-bound-alone": (["Min x six y"], {"six": F(6)}, (-INF, 6)),
    "log-softmax": (["LogSoftmax x y"], {}, (-INF, 0)),
    "exponential": (["LogSoftmax x l", "Exp l y"], {}, (0, 1)),
    "logarithm": (["Sigmoid x s", "Log s y"], {}, (-INF, 0)),
    "mean-of-two": (["Softmax x p", "Sigmoid x q", "Mean p q y"], {}, (0, 1)),
    "sum-of-two": (["Softmax x p", "Sigmoid x q", "Sum p q y"], {}, (0, 2)),
    "concatenated": (["Sigmoid x s", "Tanh x t", "Concat s t y"], {}, (-1, 1)),
    "chosen": (
        ["Greater x zero b", "Sigmoid x s", "Tanh x t", "Where b s t y"],
        {"zero": F(0)},
        (-1, 1),
    ),
    "decision": (["Greater x zero b", "Cast b y"], {"zero": F(0)}, (0, 1)),
    "summed-rows": (["Sigmoid x s", "ReduceSum s axes y"], {"axes": np.array([1])}, (0, 4)),
    "share-of-sum": (["Softplus x s", "ReduceL1 s n", "Div s n y"], {}, (0, INF)),
    "sum-of-squares": (["ReduceSumSquare x y"], {}, (0, INF)),
    "length": (["ReduceL2 x y"], {}, (0, INF)),
    "unit-length": (["LpNormalization x y"], {}, (-1, 1)),
    "unit-sum-of-rectified": (["Relu x r", "LpNormalization r y"], {}, (0, 1)),
    "all-of-several": (["Sigmoid x s", "ReduceProd s y"], {}, (0, 1)),
    "any-of-several": (
        ["Sigmoid x s", "Sub one s n", "ReduceProd n a", "Sub one a y"],
        {"one": F(1)},
        (0, 1),
    ),
    "product-of-signed": (["Tanh x t", "ReduceProd t y"], {}, (-1, 1)),
    "product-of-halves": (["Sigmoid x s", "Mul s half h", "ReduceProd h y"], {"half": F(0.5)}, (0, 0.5)),
    "product-of-rectified": (["Relu x r", "ReduceProd r y"], {}, (0, INF)),
    "product-of-anything": (["ReduceProd x y"], {}, (-INF, INF)),
    "running-sum": (["Softmax x p", "CumSum p axis y"], {"axis": np.array(1)}, (0, INF)),
    "votes": (["Hardmax x y"], {}, (0, 1)),
    "matrix": (
        ["Sigmoid x s", "MatMul s m y"],
        {"m": np.array([[1, -1], [2, 0], [0, 0.5], [0, 0]], F)},
        (-1, 3),
    ),
    "matrix-with-bias": (
        ["Sigmoid x s", "Gemm s m b y"],
        {"m": np.array([[1, -1], [2, 0], [0, 0.5], [0, 0]], F), "b": np.array([0, 1], F)},
        (-1, 4),
    ),
    "matrix-of-rectified": (["Relu x r", "MatMul r m y"], {"m": np.ones((4, 2), F)}, (0, INF)),
    "matrix-of-anything": (["MatMul x m y"], {"m": np.ones((4, 2), F)}, (-INF, INF)),
    "reciprocal-of-what-may-be-zero": (["Tanh x t", "Reciprocal t y"], {}, (-INF, INF)),
    "difference-of-rectified": (["Relu x r", "Neg x n", "Relu n q", "Sub r q y"], {}, (-INF, INF)),
    "stored-in-whole-numbers": (
        ["DequantizeLinear q step w", "Sigmoid x s", "Mul s w y"],
        {"q": np.array([2, -4], np.int8).repeat(2), "step": F(0.25)},
        (-1, 0.5),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bounds_hold_and_are_tight(name):
    steps, values, expected = CASES[name]
    nodes = []
    for text in steps:
        operator, *read, made = text.split()
        attributes = {"Concat": {"axis": 1}, "Cast": {"to": TensorProto.FLOAT}}.get(operator, {})
        nodes.append(helper.make_node(operator, read, [made], **attributes))
    tensors = [numpy_helper.from_array(np.asarray(value), key) for key, value in values.items()]
    graph = helper.make_graph(
        nodes,
        "bounds",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    low, high = find_bounds(Graph(model, (1, 4)), "y")
    assert (low, high) == pytest.approx(expected)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for size in (0.1, 1.0, 10.0, 100.0):
        found = session.run(None, {"x": size * rng.standard_normal((50, 4), np.float32)})[0]
        assert found.min() >= low - 1e-6
        assert found.max() <= high + 1e-6


def test_what_lies_too_deep_is_unknown():
    nodes = [helper.make_node("Sigmoid", ["x"], ["y0"])]
    nodes += [helper.make_node("Identity", [f"y{i}"], [f"y{i + 1}"]) for i in range(3000)]
    graph = helper.make_graph(
        nodes,
        "deep",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y3000", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert find_bounds(Graph(model, (1, 4)), "y3000") == (-INF, INF)
    assert find_bounds(Graph(model, (1, 4)), "y9") == (0, 1)
