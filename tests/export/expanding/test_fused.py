"""What ONNX Runtime saves when it has joined layers with activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import camrt
from camrt.errors import UnsupportedModelError
from camrt.export.io.model_file import read_model
from helpers.oracles.gradients import numeric_gradient
from helpers.third_party_models import random_images, residual_model, run_onnxruntime, save_optimised
from helpers.tolerances import assert_close
from helpers.zoo import save


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED"])
def test_a_file_that_the_runtime_saved_explains_as_its_source(level: str, tmp_path: Path) -> None:
    source = save(residual_model(), tmp_path / "model.onnx")
    path = save_optimised(source, level, tmp_path / "saved.onnx")
    if level == "EXTENDED":
        assert any(node.op_type == "FusedConv" for node in onnx.load(path).graph.node)
    batch = random_images()
    engine, other = camrt.load(path), camrt.load(source)
    assert_close(engine.predict(batch), run_onnxruntime(path, batch)[0], factor=4)
    assert engine.head.kind == other.head.kind == "pooled-linear"
    for method in ("gradcam", "ablation", "pixab", "gradient", "guided"):
        assert_close(
            engine.explain(batch, method, targets=2).raw,
            other.explain(batch, method, targets=2).raw,
            factor=16,  # differences of scores lose what these share
        )


def layer(
    operator: str, attributes: dict[str, Any], opset: int = 17, summed: bool = False
) -> onnx.ModelProto:
    """A joined layer between a map and its pool."""
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((6, 3, 3, 3)) / 5
    stored = {"w": weight, "b": rng.standard_normal(6), "m": rng.standard_normal((6, 4)), "c": np.ones(4)}
    ahead, inputs = [], ["images", "w", "b"]
    if summed:
        stored["w1"] = rng.standard_normal((6, 3, 1, 1))
        ahead = [helper.make_node("Conv", ["images", "w1"], ["z"], kernel_shape=[1, 1])]
        inputs.append("z")
    if operator == "FusedConv":
        made = [
            helper.make_node(
                operator, inputs, ["A"], "layer", domain="com.microsoft", pads=[1] * 4, **attributes
            )
        ]
        last = helper.make_node("Gemm", ["f", "m", "c"], ["logits"])
    else:
        made = [helper.make_node("Conv", inputs, ["A"], "layer", pads=[1] * 4)]
        last = helper.make_node(operator, ["f", "m", "c"], ["logits"], domain="com.microsoft", **attributes)
    nodes = [
        *ahead,
        *made,
        helper.make_node("GlobalAveragePool", ["A"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        last,
    ]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 5, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in stored.items() if k in used],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


LAYERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "none": ("FusedConv", {}, {}),
    "relu": ("FusedConv", {"activation": "Relu"}, {}),
    "relu-of-a-sum": ("FusedConv", {"activation": "Relu"}, {"summed": True}),
    "leaky": ("FusedConv", {"activation": "LeakyRelu", "activation_params": [0.3]}, {}),
    "tanh": ("FusedConv", {"activation": "Tanh"}, {}),
    "sigmoid": ("FusedConv", {"activation": "Sigmoid"}, {}),
    "hard-sigmoid": ("FusedConv", {"activation": "HardSigmoid", "activation_params": [0.3, 0.4]}, {}),
    "clip": ("FusedConv", {"activation": "Clip", "activation_params": [-0.2, 0.7]}, {}),
    "clip-opset-10": ("FusedConv", {"activation": "Clip", "activation_params": [-0.2, 0.7]}, {"opset": 10}),
    "gemm-leaky": ("FusedGemm", {"activation": "LeakyRelu", "activation_alpha": 0.25, "alpha": 0.5}, {}),
    "gemm-relu": ("FusedGemm", {"activation": "Relu"}, {}),
}


@pytest.mark.parametrize("case", LAYERS)
def test_a_joined_layer_against_the_runtime_s_own(case: str, tmp_path: Path) -> None:
    operator, attributes, more = LAYERS[case]
    model = layer(operator, attributes, **more)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    batch = np.random.default_rng(7).standard_normal((2, 3, 5, 4), np.float32)
    assert all(not node.domain for node in read_model(path).model.graph.node)
    engine = camrt.load(path, target="A")
    assert_close(engine.predict(batch), run_onnxruntime(model, batch)[0], factor=4)
    if case not in ("tanh", "sigmoid", "none"):  # smooth: differences of float32 numbers say what slopes are
        return
    found = engine.input_gradients(batch[:1], np.array([[0, 1, 0, 0]], np.float32))[1][0]
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])

    def logit(image: np.ndarray) -> float:
        return float(session.run(None, {"images": image[None].astype(np.float32)})[0][0, 1])

    assert_close(found, numeric_gradient_of_steps(logit, batch[0]), np.float16)


def numeric_gradient_of_steps(function: Any, at: np.ndarray, step: float = 3e-2) -> np.ndarray:
    """∂f/∂x by differences so wide that float32 does not lose them: (8(f₁ − f₋₁) − (f₂ − f₋₂)) / 12h."""
    result = np.zeros(at.shape)
    for index in np.ndindex(at.shape):
        for times, factor in ((1, 8), (2, -1)):
            for sign in (1, -1):
                moved = at.copy()
                moved[index] += sign * times * step
                result[index] += sign * factor * function(moved) / (12 * step)
    return result


def test_the_oracle_of_gradients_is_one() -> None:
    at = np.array([0.3, -0.7])
    exact = numeric_gradient(lambda x: float(np.tanh(x).sum()), at)
    assert_close(
        numeric_gradient_of_steps(lambda x: float(np.tanh(x).sum()), at), exact, np.float32, factor=8
    )


@pytest.mark.parametrize(
    "attributes",
    [{"activation": "Swish"}, {"activation": "Clip", "activation_params": [1.0]}],
    ids=["another", "too-few-numbers"],
)
def test_another_activation_is_refused(attributes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(layer("FusedConv", attributes).SerializeToString())
    with pytest.raises(UnsupportedModelError, match=r"node 'layer' .*an activation that camrt does not know"):
        read_model(path)


@pytest.mark.parametrize(
    "attributes",
    [{"activation": 3}, {"activation": "Clip", "activation_params": 0.5}],
    ids=["activation", "its-numbers"],
)
def test_an_attribute_of_another_type_is_refused(attributes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(layer("FusedConv", attributes).SerializeToString())
    with pytest.raises(UnsupportedModelError, match=r"attribute 'activation.*' of another type"):
        read_model(path)


# ---------------------------------------------------------------- bounds


@pytest.mark.parametrize("shape", [(1,), (1, 1), (1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("constant", [False, True], ids=["initializer", "node"])
def test_bounds_that_are_vectors_of_one_number(
    shape: tuple[int, ...], constant: bool, tmp_path: Path
) -> None:
    """The runtime takes them; the gradient's graph too."""
    model = residual_model()
    bounds = {"low": np.full(shape, 0, np.float32), "high": np.full(shape, 0.4, np.float32)}
    for node in model.graph.node:
        if node.output[0] == "A":
            node.op_type = "Clip"
            node.input.extend(bounds)
    scalars = onnx.ModelProto()
    scalars.CopyFrom(model)
    for name, value in bounds.items():
        tensor = numpy_helper.from_array(value, name)
        scalars.graph.initializer.append(numpy_helper.from_array(value.reshape(()), name))
        if constant:
            model.graph.node.insert(0, helper.make_node("Constant", [], [name], value=tensor))
        else:
            model.graph.initializer.append(tensor)
    path = save(model, tmp_path / "model.onnx")
    batch = random_images()
    engine = camrt.load(path)
    other = camrt.load(save(scalars, tmp_path / "scalars.onnx"))
    assert_close(engine.predict(batch), run_onnxruntime(scalars, batch)[0], factor=4)
    for method in ("gradcam", "pixab", "ablation", "gradient"):
        found, expected = (each.explain(batch, method, targets=0).raw for each in (engine, other))
        assert_close(found, expected, factor=4)
