"""The last layer of a file: found in whatever form it is written, taken off, and replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import camrt
from camrt.engine.runtime import make_onnx_runtime
from camrt.errors import InputError, UnsupportedModelError
from camrt.export.graph.index import Graph
from camrt.export.heads.last_layer import LastLayer, find_last_layer
from camrt.export.io.model_file import read_model
from camrt.export.rewrites.interface import LOGITS, standardise

ENDS: dict[str, list[tuple[str, list[str], str, dict[str, Any]]]] = {
    "Gemm": [("Gemm", ["hidden", "W", "b"], "scores", {"transB": 1})],
    "Gemm and softmax": [
        ("Gemm", ["hidden", "W", "b"], "logits", {"transB": 1}),
        ("Softmax", ["logits"], "scores", {"axis": 1}),
    ],
    "MatMul": [("MatMul", ["hidden", "Wt"], "scores", {})],
    "MatMul and Add": [
        ("MatMul", ["hidden", "Wt"], "product", {}),
        ("Add", ["b", "product"], "sum", {}),
        ("Identity", ["sum"], "scores", {}),
    ],
}
OTHERS = {
    "a product of answers": [
        ("Gemm", ["hidden", "W", "b"], "logits", {"transB": 1}),
        ("Mul", ["logits", "logits"], "scores", {}),
    ],
    "Tanh": [
        ("Gemm", ["hidden", "W", "b"], "logits", {"transB": 1}),
        ("Tanh", ["logits"], "scores", {}),
    ],
    "two moving parts": [
        ("MatMul", ["hidden", "Wt"], "product", {}),
        ("MatMul", ["hidden", "Wt"], "again", {}),
        ("Add", ["again", "product"], "scores", {}),
    ],
}


def written(path: Path, end: list[tuple[str, list[str], str, dict[str, Any]]]) -> dict[str, np.ndarray]:
    """A network of one convolution and two dense layers, the last one of some form."""
    rng = np.random.default_rng(2)
    weights = {
        "K": rng.standard_normal((4, 3, 2, 2)),
        "V": rng.standard_normal((5, 64)),
        "W": rng.standard_normal((3, 5)),
        "b": rng.standard_normal(3),
    }
    weights["Wt"] = weights["W"].T.copy()
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    nodes = [
        helper.make_node("Conv", ["images", "K"], ["c"], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["A"]),
        helper.make_node("Flatten", ["A"], ["flat"]),
        helper.make_node("Gemm", ["flat", "V"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["hidden"]),
        *(helper.make_node(kind, inputs, [output], **more) for kind, inputs, output, more in end),
    ]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items() if name in used],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return weights


def found_in(path: Path) -> LastLayer:
    model = read_model(path).model
    interface = standardise(model)
    return find_last_layer(model, Graph(model, interface.probe_shape(1)))


def features_by_hand(weights: dict[str, np.ndarray], batch: np.ndarray) -> np.ndarray:
    patches = batch.reshape(len(batch), 3, 4, 2, 4, 2)
    maps = np.einsum("ncyixj,kcij->nkyx", patches, weights["K"])
    return np.maximum(np.maximum(maps, 0).reshape(len(batch), -1) @ weights["V"].T, 0)


@pytest.mark.parametrize("form", ENDS)
def test_a_layer_is_taken_off_and_replaced(form: str, tmp_path: Path) -> None:
    weights = written(tmp_path / "net.onnx", ENDS[form])
    last = found_in(tmp_path / "net.onnx")
    batch = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
    features = features_by_hand(weights, batch)
    trunk = make_onnx_runtime(threads=1).make_runner(last.trunk(), label="trunk")
    np.testing.assert_allclose(trunk(batch)[0], features, rtol=1e-4, atol=1e-4)
    rng = np.random.default_rng(1)
    weight, bias = rng.standard_normal((2, 5)), rng.standard_normal(2)
    model = last.with_layer(weight, bias, ["no", "yes"], {"note": "kept"})
    onnx.save(model, tmp_path / "new.onnx")
    engine = camrt.load(tmp_path / "new.onnx")
    assert engine.labels == ("no", "yes")
    np.testing.assert_allclose(engine.predict(batch), features @ weight.T + bias, rtol=1e-4, atol=1e-4)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert not {"W", "Wt", "b"} & set(stored)
    assert all(np.array_equal(stored[name], weights[name]) for name in ("K", "V"))
    assert [value.name for value in model.graph.output] == [LOGITS]
    before = camrt.load(tmp_path / "net.onnx").predict(batch)
    np.testing.assert_allclose(
        before, features @ weights["W"].T + (0 if form == "MatMul" else weights["b"]), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("form", OTHERS)
def test_other_ends_are_refused(form: str, tmp_path: Path) -> None:
    written(tmp_path / "net.onnx", OTHERS[form])
    with pytest.raises(UnsupportedModelError, match=r"does not end in one linear layer .* come from"):
        found_in(tmp_path / "net.onnx")


def test_a_layer_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "net.onnx", ENDS["Gemm"])
    last = found_in(tmp_path / "net.onnx")
    for weight, bias, labels in (
        (np.ones(5), np.ones(1), ["a"]),
        (np.ones((2, 5)), np.ones(3), ["a", "b"]),
        (np.ones((2, 5)), np.ones(2), ["a"]),
    ):
        with pytest.raises(InputError, match=r"a last layer needs weights \(C, K\)"):
            last.with_layer(weight, bias, labels, {})
