"""Layers of whole numbers: the graph of floats against ONNX Runtime on the file itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

import camrt
from camrt.errors import UnsupportedModelError
from camrt.export.io.model_file import read_model
from helpers.oracles.ablation import weights
from helpers.oracles.pixab import pixab_cam
from helpers.third_party_models import (
    SIZE,
    extract_tail,
    random_images,
    residual_model,
    run_onnxruntime,
    save_optimised,
)
from helpers.tolerances import assert_close
from helpers.zoo import save


class Batches(CalibrationDataReader):
    def __init__(self) -> None:
        self.left = iter([{"images": random_images(2, seed)} for seed in range(3)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.left, None)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The quantiser logs advice."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def quantised(
    folder: Path,
    form: QuantFormat = QuantFormat.QOperator,
    kind: QuantType = QuantType.QInt8,
    *,
    per_channel: bool = False,
    opset: int = 17,
    weight: QuantType = QuantType.QInt8,
    **options: Any,
) -> Path:
    """The small network by onnxruntime's quantiser; weights of 7 bits, so that no kernel saturates."""
    source = save(residual_model(opset=opset), folder / "floats.onnx")
    made = folder / f"{form}.onnx"
    quantize_static(
        source,
        made,
        Batches(),
        quant_format=form,
        activation_type=kind,
        weight_type=weight,
        per_channel=per_channel,
        reduce_range=weight == QuantType.QInt8,
        extra_options=options,
    )
    return made


def step_of(model: onnx.ModelProto) -> float:
    """The scale of the last dequantiser."""
    last = next(node for node in reversed(model.graph.node) if node.op_type == "DequantizeLinear")
    return float(next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == last.input[1]))


@pytest.mark.parametrize(
    ("kind", "per_channel", "opset"),
    [
        (QuantType.QInt8, False, 17),
        (QuantType.QUInt8, True, 17),
        (QuantType.QInt8, True, 11),
    ],
    ids=["int8", "uint8-per-channel", "int8-per-channel-opset-11"],
)
def test_a_file_of_whole_numbers_gives_its_own_answers(
    kind: QuantType, per_channel: bool, opset: int, tmp_path: Path
) -> None:
    path = quantised(tmp_path, kind=kind, per_channel=per_channel, opset=opset)
    file = onnx.load(path)
    assert not any(node.op_type in ("Conv", "Gemm") for node in file.graph.node)
    batch = random_images()
    expected, step = run_onnxruntime(path, batch)[0], step_of(file)
    engine = camrt.load(path)
    assert engine.target.shape == (24, 6, 6)
    off = np.abs(engine.predict(batch) - expected)
    assert off.max() <= 1.01 * step
    assert (off < 0.01 * step).mean() >= 0.8  # steps are coarse: a tie may fall either way
    # Also where nothing joins the three nodes again.
    off = np.abs(run_onnxruntime(read_model(path).model, batch, plain=True)[0] - expected)
    assert off.max() <= 1.01 * step
    assert (off < 0.01 * step).mean() >= 0.8


def test_what_is_behind_the_target_agrees_with_the_file_s_own_nodes(tmp_path: Path) -> None:
    """Ablation-CAM and Pixab-CAM, from the whole numbers of the file's last map on."""
    path = quantised(tmp_path)
    file, engine = onnx.load(path), camrt.load(path)
    conv = next(node for node in reversed(file.graph.node) if node.op_type == "QLinearConv")
    assert engine.target.node == conv.name
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in file.graph.initializer}
    scale, zero = stored[conv.input[6]], stored[conv.input[7]]
    rest = extract_tail(file, conv.output[0], TensorProto.INT8, ["N", 24, 6, 6])
    session = ort.InferenceSession(rest.SerializeToString(), providers=["CPUExecutionProvider"])

    def score(activation: np.ndarray) -> np.ndarray:
        whole = np.clip(np.rint(activation / scale) + zero, -128, 127).astype(np.int8)
        return session.run(None, {conv.output[0]: whole[None]})[0][0]

    batch, step = random_images(2), step_of(file)
    found, maps = engine.channel_weights(batch, "ablation", targets=2)
    for one, activation in zip(found, maps, strict=True):
        off = np.abs(one - weights(score, activation, 2)) * abs(score(activation)[2])
        assert off.max() <= 1.01 * step  # a pooled number in the middle between two may fall either way
        assert (off < 0.01 * step).mean() >= 0.9
    one = engine.explain(batch[:1], "pixab", targets=1, score="logit", denominators="N1").raw[0]
    expected = pixab_cam(score, maps[0], 1, denominators="N1", probability=False)
    off = np.abs(one - expected) * abs(score(maps[0])[1])
    assert off.max() <= 0.5 * step  # a mean over boxes, few of which fall the other way
    assert np.abs(expected).max() * abs(score(maps[0])[1]) > 4 * step


def test_gradients_are_those_of_the_form_with_quantisers(tmp_path: Path) -> None:
    """The quantiser writes the same numbers in both forms."""
    other = camrt.load(quantised(tmp_path, QuantFormat.QDQ))
    engine = camrt.load(quantised(tmp_path))
    batch = random_images()
    assert_close(engine.predict(batch), other.predict(batch), factor=1e4)  # a step at most: see above
    found, expected = (each.channel_weights(batch, "gradcam", targets=3)[0] for each in (engine, other))
    assert_close(found, expected, factor=8)
    shape = engine.explain(batch, "gradient", targets=0).maps.shape
    assert shape == (3, *SIZE[1:])


@pytest.mark.parametrize("level", ["EXTENDED", "ALL"])
@pytest.mark.parametrize("form", [QuantFormat.QOperator, QuantFormat.QDQ], ids=str)
def test_what_the_runtime_saved_of_it_gives_the_same(form: QuantFormat, level: str, tmp_path: Path) -> None:
    """Maps with their channels last among them, where this processor's kernels want that."""
    path = quantised(tmp_path, form, QuantType.QUInt8)
    saved = save_optimised(path, level, tmp_path / "saved.onnx")
    batch = random_images()
    engine = camrt.load(saved)
    assert np.abs(engine.predict(batch) - run_onnxruntime(saved, batch)[0]).max() <= 1.01 * step_of(
        onnx.load(path)
    )
    assert engine.target.shape == (24, 6, 6)
    assert engine.explain(batch, "gradcam", targets=1).raw.any()


@pytest.mark.parametrize("kind", [QuantType.QInt4, QuantType.QUInt4], ids=str)
def test_weights_of_4_bits(kind: QuantType, tmp_path: Path) -> None:
    """The runtime takes them before opset 21, when ONNX had no such type."""
    path = quantised(tmp_path, QuantFormat.QDQ, weight=kind)
    engine, batch = camrt.load(path), random_images()
    off = np.abs(engine.predict(batch) - run_onnxruntime(path, batch, plain=True)[0])
    assert off.max() <= 1.01 * step_of(onnx.load(path))
    assert (off < 0.01 * step_of(onnx.load(path))).mean() >= 0.8
    for method in ("gradcam", "ablation", "pixab", "gradient"):
        assert engine.explain(batch, method, targets=1).raw.any()


@pytest.mark.parametrize("kind", [QuantType.QUInt8, QuantType.QInt16], ids=["8-bit", "16-bit"])
def test_the_runtime_s_own_quantisers(kind: QuantType, tmp_path: Path) -> None:
    """It had those of 16 bits before ONNX did."""
    path = quantised(tmp_path, QuantFormat.QDQ, kind, UseQDQContribOps=True)
    assert {node.domain for node in onnx.load(path).graph.node} == {"", "com.microsoft"}
    assert all(not node.domain for node in read_model(path).model.graph.node)
    engine, batch = camrt.load(path), random_images()
    step = step_of(onnx.load(path))
    assert np.abs(engine.predict(batch) - run_onnxruntime(path, batch)[0]).max() <= 1.01 * step
    plain = camrt.load(tmp_path / "floats.onnx")
    found, expected = (each.channel_weights(batch, "gradcam", targets=3)[0] for each in (engine, plain))
    passed = found != 0  # nothing passes where a number lies outside the range that was calibrated
    assert passed.mean() > 0.5
    # The linear layer's weight over the number of cells, the weight rounded to 7 bits.
    assert np.abs(found - expected)[passed].max() <= 0.51 / 63 * np.abs(expected).max()


def test_scales_found_while_running(tmp_path: Path) -> None:
    """quantize_dynamic: the file's answers, and gradients as if nothing had been rounded."""
    source = save(residual_model(), tmp_path / "floats.onnx")
    path = tmp_path / "dynamic.onnx"
    quantize_dynamic(source, path, weight_type=QuantType.QUInt8)
    one = random_images(1)
    for given in (path, save_optimised(path, "ALL", tmp_path / "saved.onnx")):
        engine = camrt.load(given)
        assert_close(engine.predict(one), run_onnxruntime(given, one)[0], factor=8)
        floats = camrt.load(source)
        found = engine.explain(one, "gradcam", targets=2).raw
        expected = floats.explain(one, "gradcam", targets=2).raw
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99
        slopes = engine.channel_weights(one, "gradcam", targets=2)[0]
        # The linear layer's weight over the number of cells, the weight rounded to 8 bits.
        exact = floats.channel_weights(one, "gradcam", targets=2)[0]
        assert np.abs(slopes - exact).max() <= 0.51 / 255 * 4 * np.abs(exact).max()


# ---------------------------------------------------------------- operator by operator


def tensor(name: str, values: Any, dtype: Any) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def of_one(
    operator: str,
    inputs: str,
    attributes: dict[str, Any],
    shape: tuple[int, ...],
    *,
    domain: str = "com.microsoft",
    kind: Any = np.uint8,
    opset: int = 17,
    element: int | None = None,
) -> onnx.ModelProto:
    """Floats quantised to q (scale s, zero z), and one node that reads it and others."""
    rng = np.random.default_rng(5)
    least = np.iinfo(kind).min
    stored = [
        tensor("s", 0.02, np.float32),
        tensor("v", [0.02], np.float32),  # one number as a vector, as some files have it
        tensor("z", np.asarray(least + 120), kind),
        tensor("t", 0.05, np.float32),
        tensor("odd", 0.0137, np.float32),
        tensor("u", least + 100, kind),
        tensor("w", rng.integers(-60, 60, (6, 4, 3, 3)), np.int8),
        tensor("w_s", rng.uniform(0.005, 0.01, 6), np.float32),
        tensor("w_z", np.zeros(6), np.int8),
        tensor("b", rng.integers(-900, 900, 6), np.int32),
        tensor("m", rng.integers(-60, 60, (5, 6)), np.int8),
        tensor("turned", rng.integers(-60, 60, (6, 5)), np.int8),
        tensor("one", 0.01, np.float32),
        tensor("none", 3, np.int8),
        tensor("outside", least + 7, kind),
        tensor("sizes", [0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        tensor("choose", rng.random((2, 4, 5, 5)) < 0.5, np.bool_),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "s", "z"], ["q"]),
        helper.make_node(operator, inputs.split(), ["y"], domain=domain, **attributes),
    ]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(
                "y", element or helper.np_dtype_to_tensor_dtype(np.dtype(kind)), None
            )
        ],
        [each for each in stored if each.name in used],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


MAPS, ROWS = (2, 4, 5, 5), (2, 5)
FLOAT = TensorProto.FLOAT
ONE_NODE: dict[str, tuple[str, str, dict[str, Any], tuple[int, ...], dict[str, Any]]] = {
    "conv": ("QLinearConv", "q v z w w_s w_z t u b", {"pads": [1] * 4}, MAPS, {"domain": ""}),
    "conv-opset-10": ("QLinearConv", "q v z w w_s w_z t u b", {}, MAPS, {"domain": "", "opset": 10}),
    "conv-int8-no-bias": (
        "QLinearConv", "q v z w w_s w_z t u", {"strides": [2, 2]}, MAPS, {"domain": "", "kind": np.int8},
    ),
    "matmul": ("QLinearMatMul", "q s z m one none t u", {}, ROWS, {"domain": ""}),
    "matmul-by-column": ("QLinearMatMul", "q s z m w_s w_z t u", {}, ROWS, {"domain": ""}),
    "gemm": ("QGemm", "q s z m w_s w_z b t u", {"alpha": 0.5}, ROWS, {}),
    "gemm-turned-to-floats": ("QGemm", "q s z turned w_s w_z b", {"transB": 1}, ROWS, {"element": FLOAT}),
    "add": ("QLinearAdd", "q s z q s z t u", {}, MAPS, {}),
    "mul-int8": ("QLinearMul", "q s z q s z t u", {}, MAPS, {"kind": np.int8}),
    "sigmoid": ("QLinearSigmoid", "q s z one z", {}, MAPS, {}),
    "leaky": ("QLinearLeakyRelu", "q s z t u", {"alpha": 0.2}, MAPS, {}),
    "softmax": ("QLinearSoftmax", "q s z one z", {"axis": -1, "opset": 17}, ROWS, {}),
    "softmax-of-old": ("QLinearSoftmax", "q s z one z", {"axis": 1, "opset": 11}, ROWS, {}),
    "average": ("QLinearAveragePool", "q s z odd u", {"kernel_shape": [2, 2]}, MAPS, {}),
    "global-average-last": ("QLinearGlobalAveragePool", "q s z odd u", {"channels_last": 1}, MAPS, {}),
    "concat": ("QLinearConcat", "t u q s z q s z", {"axis": 1}, MAPS, {}),
    "where": ("QLinearWhere", "choose q s z q s u t u", {}, MAPS, {}),
    "pad": ("Pad", "q sizes outside", {}, MAPS, {"domain": ""}),
    "pad-with-nothing-said": ("Pad", "q sizes", {}, MAPS, {"domain": ""}),
    "largest": ("MaxPool", "q", {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0]}, MAPS, {"domain": ""}),
    "largest-last": ("NhwcMaxPool", "q", {"kernel_shape": [2, 2]}, (2, 5, 5, 4), {}),
    "turned": ("Transpose", "q", {"perm": [0, 2, 3, 1]}, MAPS, {"domain": ""}),
    "conv-of-counts": (
        "ConvInteger", "q w z none", {}, MAPS, {"domain": "", "element": TensorProto.INT32},
    ),
    "matrices-of-counts": (
        "MatMulInteger", "q m z w_z", {}, ROWS, {"domain": "", "element": TensorProto.INT32},
    ),
    "matrices-to-floats": ("MatMulIntegerToFloat", "q m s w_s z w_z", {}, ROWS, {"element": FLOAT}),
}  # fmt: skip


@pytest.mark.parametrize("case", ONE_NODE)
def test_one_node_against_the_runtime_s_own_kernel(case: str, tmp_path: Path) -> None:
    operator, inputs, attributes, shape, more = ONE_NODE[case]
    model = of_one(operator, inputs, attributes, shape, **more)
    batch = np.random.default_rng(6).standard_normal(shape, np.float32)
    expected = run_onnxruntime(model, batch)[0]
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    read = read_model(path).model
    own = [node for node in read.graph.node if node.op_type == operator and "q" in node.input]
    assert not own
    assert all(node.domain in ("", "ai.onnx") for node in read.graph.node)
    found = run_onnxruntime(read, batch, plain=True)[0]
    assert found.dtype == expected.dtype
    if found.dtype == np.float32:
        assert_close(found, expected)
        return
    off = np.abs(found.astype(int) - expected.astype(int))
    if found.dtype == np.int32:
        assert off.max() == 0
    assert off.max() <= 1
    assert (off == 0).mean() >= 0.97
    assert np.unique(expected).size > 4


def test_a_softmax_of_another_definition_is_refused(tmp_path: Path) -> None:
    model = of_one("QLinearSoftmax", "q s z one z", {"axis": 1, "opset": 11}, MAPS)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedModelError, match="is a softmax of opset 11 in a file of opset 17"):
        read_model(path)
