"""TensorRT takes every graph that camrt makes of a model, in all precisions it is to run in."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from helpers.calm_models import calm_model
from helpers.zoo import HEADS, Net, classifier, save

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is missing: pip install 'camrt[dev]'")

from camrt.default import model_path
from camrt.engine.build import build_engine
from camrt.engine.plan_recorder import GraphRecorder, run_every_graph
from camrt.engine.runtime.ort_cpu import OnnxRuntime
from camrt.engine.tensorrt_plans.bindings import import_bindings
from camrt.engine.tensorrt_plans.build import BuildOptions, PlanBuilder, cast_to_precision
from camrt.export.io.model_file import read_model


@pytest.fixture(scope="module")
def trt():
    return import_bindings("tensorrt-rtx", running=False)


def graphs_of(path, size=None):
    """Every graph that a model is run by, guided gradients too."""
    recorder = GraphRecorder()
    engine = build_engine(read_model(path), recorder, OnnxRuntime())
    size = size or (engine.interface.height or 224, engine.interface.width or 224)
    run_every_graph(engine, size, gradients=True, guided=True)
    return list(recorder.graphs)


def build(trt, ran, precision="fp32"):
    return PlanBuilder(trt, BuildOptions(precision)).build(
        ran.model, label=ran.label, shapes=ran.shapes, batch=ran.batch
    )


@pytest.mark.parametrize("case", HEADS.values(), ids=HEADS.keys())
def test_every_head_of_the_zoo(case, trt, tmp_path):
    part = case.make(np.random.default_rng(0), 6, 5, 4, 3)
    whole = classifier(part, np.random.default_rng(1))
    path = save(whole.model, tmp_path / "model.onnx")
    made = graphs_of(path, whole.size[1:])
    # An operator set as old as 9 has no adjoint of an image model: its Slice takes no computed bounds.
    assert "model's adjoint" in {ran.label for ran in made} or part.opset < 10
    for ran in made:
        assert build(trt, ran)


def test_the_embedded_classifier(trt):
    made = graphs_of(model_path())
    for ran in made:
        assert build(trt, ran)


def test_calm(trt, tmp_path):
    path = calm_model().save(tmp_path / "calm.onnx")
    made = graphs_of(path, (12, 16))
    assert "head's joint" in {ran.label for ran in made}
    for ran in made:
        assert build(trt, ran)


def pooled(path):
    """Overlapping max pooling of a convolution, average pooling of that, and a linear layer."""
    net = Net(np.random.default_rng(0))
    weight, dense = net.weight(4, 3, 3, 3)[0], net.weight(4, 3)[0]
    nodes = [
        onnx.helper.make_node("Conv", ["images", weight], ["c"], pads=[1, 1, 1, 1]),
        onnx.helper.make_node(
            "MaxPool", ["c"], ["m"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
        ),
        onnx.helper.make_node("Relu", ["m"], ["r"]),
        onnx.helper.make_node("AveragePool", ["r"], ["a"], kernel_shape=[2, 2], strides=[2, 2]),
        onnx.helper.make_node("GlobalAveragePool", ["a"], ["g"]),
        onnx.helper.make_node("Flatten", ["g"], ["f"]),
        onnx.helper.make_node("MatMul", ["f", dense], ["logits"]),
    ]
    given = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["N", 3, 24, 20])
    found = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 3])
    graph = onnx.helper.make_graph(nodes, "pooled", [given], [found], net.initializers)
    return save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path
    )


def test_max_pooling_has_no_scattering(trt, tmp_path):
    """TensorRT has no ScatterElements that adds, which the adjoint is faster by elsewhere."""
    made = graphs_of(pooled(tmp_path / "pooled.onnx"))
    assert "model's adjoint" in {ran.label for ran in made}
    for ran in made:
        assert not any(node.op_type == "ScatterElements" for node in ran.model.graph.node)
        assert build(trt, ran)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_in_the_graph(precision, trt, tmp_path):
    wanted = onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.BFLOAT16
    for ran in graphs_of(pooled(tmp_path / "pooled.onnx")):
        assert build(trt, ran, precision)
        given = cast_to_precision(ran.model, precision).graph.input[0].type.tensor_type.elem_type
        # Gradients leave the range of half precision long before logits do.
        assert given == (onnx.TensorProto.FLOAT if "adjoint" in ran.label else wanted)
        assert ran.model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


@pytest.mark.realdata
@pytest.mark.skipif("CAMRT_DATA" not in os.environ, reason="CAMRT_DATA does not name a folder of real models")
@pytest.mark.parametrize("name", ["brain_mri_cnn", "mobilenet_v2", "mobilenet_v3_small", "squeezenet1_0"])
def test_real_models(name, trt):
    for ran in graphs_of(Path(os.environ["CAMRT_DATA"]) / "models" / f"{name}.onnx"):
        assert build(trt, ran)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_scales_and_quantisers_stay_in_float32(precision, trt, tmp_path):
    """A head that resizes by scales before it pools, of weights that are dequantised."""
    rng, net = np.random.default_rng(0), Net(np.random.default_rng(1))
    whole = net.constant(rng.integers(-127, 127, (6, 6, 1, 1)), np.int8)
    weight = net.add("DequantizeLinear", whole, net.constant(0.01), net.constant(0, np.int8))
    larger = net.add("Resize", "A", "", net.constant([1, 1, 2, 2]), mode="linear")
    pooled = net.pooled(net.add("Relu", net.add("Conv", larger, weight)))
    last, _ = net.gemm(pooled, 6, 3)
    part = net.part(last, lambda A: A, (6, 5, 4), 3)
    made = graphs_of(save(classifier(part, rng).model, tmp_path / "model.onnx"), (10, 8))
    for ran in made:
        if "adjoint" not in ran.label:
            assert build(trt, ran, precision)
