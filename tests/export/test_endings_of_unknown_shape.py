"""Endings behind what shape inference does not follow, or behind quantisers: read as if it did.

The files are written by hand, by both of torch's exporters and by onnxruntime's quantiser; the oracle is
plain onnxruntime on the file.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import camrt
from camrt.export.rewrites.interface import standardise
from helpers.output_endings import WHOLE_MODEL, random_images, run_onnxruntime, zoo_model
from helpers.tolerances import assert_close
from helpers.zoo import HEADS, classifier, model_of, save, sigmoid, softmax, with_ending

ENDS = {"Softmax": softmax, "Sigmoid": sigmoid}


def constants(model: Any, **values: Any) -> Any:
    for name, value in values.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model


def node(operator: str, source: str, made: str, **attributes: Any) -> Any:
    return helper.make_node(operator, source.split(), [made], **attributes)


def agrees(path: Path, batch: Any, end: str, **options: Any) -> Any:
    """The engine of a file whose probabilities are the file's answers."""
    engine = camrt.load(path, threads=1, **options)
    assert engine.interface.recognised == end
    assert engine.interface.activation == ("sigmoid" if end == "Sigmoid" else "softmax")
    theirs = run_onnxruntime(path, batch, onnx.load(path).graph.output[0].name)
    assert_close(engine.probabilities(engine.predict(batch)), theirs, factor=WHOLE_MODEL)
    return engine


@pytest.mark.parametrize("end", ENDS)
def test_a_flatten_whose_shape_is_computed_from_sizes(end, tmp_path):
    """As tf2onnx writes Keras's Flatten: sizes cast to int32, sliced, packed with -1 and cast back."""
    rng = np.random.default_rng(0)
    features = 6 * 4 * 3
    dense = (rng.standard_normal((features, 4)) / 8).astype(np.float32)
    weight = (rng.standard_normal((6, 3, 3, 3)) / 3).astype(np.float32)
    nodes = [
        node("Transpose", "images", "first", perm=[0, 3, 1, 2]),
        node("Conv", "first weight", "c", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", "c", "A"),
        node("Transpose", "A", "back", perm=[0, 2, 3, 1]),
        node("Shape", "back", "sizes"),
        node("Cast", "sizes", "narrow", to=TensorProto.INT32),
        node("Slice", "narrow zero one zero", "count"),
        node("Squeeze", "count zero64", "number"),
        node("Cast", "number", "wide", to=TensorProto.FLOAT),
        node("Cast", "wide", "again", to=TensorProto.INT64),
        node("Unsqueeze", "again zero64", "unsqueezed"),
        node("Concat", "unsqueezed minus", "target", axis=0),
        node("Reshape", "back target", "flat"),
        node("MatMul", "flat dense", "product"),
        node("Add", "product bias", "sum"),
        node(end, "sum", "logits"),
    ]
    tensors = {
        "weight": weight,
        "dense": dense,
        "bias": rng.standard_normal(4).astype(np.float32),
        "zero": np.array([0], np.int32),
        "one": np.array([1], np.int32),
        "zero64": np.array([0]),
        "minus": np.array([-1]),
    }
    model = constants(model_of(nodes, [], ["N", 8, 6, 3], ["N", 4]), **tensors)
    path = save(model, tmp_path / "model.onnx")
    batch = rng.standard_normal((3, 8, 6, 3), np.float32)
    engine = camrt.load(path, threads=1)
    assert engine.interface.recognised == end
    ours = engine.probabilities(engine.predict(batch.transpose(0, 3, 1, 2)))
    assert_close(ours, run_onnxruntime(path, batch, "logits"), factor=WHOLE_MODEL)
    for method in ("gradcam", "pixab", "ablation"):
        assert np.isfinite(engine.explain(batch.transpose(0, 3, 1, 2), method).raw).all()


@pytest.mark.parametrize("end", ENDS)
def test_an_operator_of_the_runtime_before_the_end(end, tmp_path):
    """com.microsoft operators are unknown to shape inference, and so is all behind them."""
    whole = zoo_model()
    model = with_ending(whole.model, [node("Identity", "logits", "l"), node(end, "g", "scores")], ["N", 4])
    fused = helper.make_node("FusedMatMul", ["l", "eye"], ["g"], domain="com.microsoft", alpha=2.0)
    model.graph.node.insert(len(model.graph.node) - 1, fused)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    path = tmp_path / "model.onnx"
    path.write_bytes(constants(model, eye=np.eye(4, dtype=np.float32)).SerializeToString())
    batch = random_images(whole)
    engine = agrees(path, batch, end)
    assert_close(engine.predict(batch), 2 * whole.logits64(batch), factor=WHOLE_MODEL)


@pytest.mark.parametrize("end", ENDS)
def test_the_output_tells_the_shape_where_nothing_can_be_run(end):
    """Without an observer the input's shape stays unknown; a softmax keeps it."""
    whole = zoo_model()
    model = with_ending(whole.model, [node(end, "g", "p"), node("Identity", "p", "scores")], ["N", 4])
    fused = helper.make_node("FusedMatMul", ["logits", "eye"], ["g"], domain="com.microsoft")
    model.graph.node.insert(len(model.graph.node) - 2, fused)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    interface = standardise(constants(model, eye=np.eye(4, dtype=np.float32)))
    assert interface.num_classes == 4


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_chunks_as_torch_exports_them(exporter, end, tmp_path):
    """TorchScript's `chunk` becomes slices of computed sizes, behind which no shape is known."""
    torch = pytest.importorskip("torch", reason="the files are written by torch's exporters")
    pytest.importorskip("onnxscript", reason="torch's newer exporter needs it")

    class Chunked(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.Conv2d(8, 6, 3, 1, 1)
            self.head = torch.nn.Linear(6, 4)

        def forward(self, batch: Any) -> Any:
            one, other = self.first(batch).relu().chunk(2, 1)
            maps = self.second(torch.cat([other, one], 1)).relu()
            scores = self.head(maps.mean((2, 3)))
            return scores.softmax(1) if end == "Softmax" else scores.sigmoid()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Chunked().eval()
    batch = np.random.default_rng(0).standard_normal((3, 3, 12, 16), np.float32)
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            shapes = ({0: torch.export.Dim("batch")},)
            torch.onnx.export(
                module,
                (torch.from_numpy(batch),),
                str(path),
                dynamo=True,
                dynamic_shapes=shapes,
                verbose=False,
            )
        else:
            axes = {"images": {0: "N", 2: "H", 3: "W"}, "scores": {0: "N"}}
            names = {"input_names": ["images"], "output_names": ["scores"]}
            torch.onnx.export(
                module, (torch.from_numpy(batch),), str(path), dynamo=False, dynamic_axes=axes, **names
            )
    engine = agrees(path, batch, end)
    assert engine.head.kind == "pooled-linear"


def test_a_flattened_head_whose_images_are_declared_open(tmp_path):
    whole = classifier(
        HEADS["flatten-gemm"].make(np.random.default_rng(3), 6, 4, 3, 4),
        np.random.default_rng(3),
        size=("H", "W"),
    )
    model = with_ending(whole.model, [node("Softmax", "logits", "scores")], ["N", 4])
    height, width = whole.size[1:]
    steps = camrt.Preprocessing(size=(height, width), mean=(0, 0, 0), std=(1, 1, 1))
    agrees(save(model, tmp_path / "model.onnx"), random_images(whole), "Softmax", preprocessing=steps)


# ---------------------------------------------------------------- quantisers around the ending


def quantised(whole: Any, end: str, *, scale: float, moved: bool = False) -> Any:
    """…logits, Q, DQ, end, Q, DQ, and a reshape between where `moved`."""
    steps = [
        node("QuantizeLinear", "logits level middle", "q0"),
        node("DequantizeLinear", "q0 level middle", "l"),
        node(end, "l", "p"),
        node("QuantizeLinear", "p step bottom", "q1"),
        node("DequantizeLinear", "q1 step bottom", "d" if moved else "scores"),
    ]
    if moved:
        steps += [node("Unsqueeze", "d last", "u"), node("Squeeze", "u last", "scores")]
    return constants(
        with_ending(whole.model, steps, ["N", 4]),
        level=np.float32(0.05),
        middle=np.uint8(128),
        step=np.float32(scale),
        bottom=np.uint8(0),
        last=np.array([2]),
    )


@pytest.mark.parametrize("moved", [False, True], ids=["bare", "reshaped"])
@pytest.mark.parametrize("end", ENDS)
def test_an_ending_between_quantisers(end, moved, tmp_path):
    """Its probabilities are unrounded, and round to the file's."""
    whole, scale = zoo_model(), 1 / 255
    path = save(quantised(whole, end, scale=scale, moved=moved), tmp_path / "model.onnx")
    engine = camrt.load(path, threads=1)
    assert engine.interface.recognised == end
    batch = random_images(whole)
    logits = engine.predict(batch)
    rounded = np.round(whole.logits64(batch) / 0.05) * 0.05
    assert_close(logits, rounded, factor=WHOLE_MODEL)
    ours = engine.probabilities(logits)
    assert_close(ours, ENDS[end](rounded), factor=WHOLE_MODEL)
    unfused = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    theirs = run_onnxruntime(path, batch, graph_optimization_level=unfused)
    assert np.abs(ours - theirs).max() <= scale / 2 + 1e-6
    assert "rounds its answers to steps of 0.00392" in " ".join(engine.notes)


@pytest.mark.parametrize("end", [*ENDS, "mean"])
def test_files_of_the_runtimes_quantiser(end, tmp_path):
    quantization = pytest.importorskip("onnxruntime.quantization", reason="the quantiser is tried")
    whole = zoo_model()
    steps = [node(end, "logits", "scores")]
    if end == "mean":
        steps = [
            node("Softmax", "logits", "p"),
            node("Neg", "logits", "n"),
            node("Softmax", "n", "q"),
            node("Add", "p q", "s"),
            node("Mul", "s half", "scores"),
        ]
    model = with_ending(whole.model, steps, ["N", 4])
    if end == "mean":
        model = constants(model, half=np.float32(0.5))
    source, path = save(model, tmp_path / "source.onnx"), tmp_path / "model.onnx"
    batches = iter([{"images": one[None]} for one in 2 * random_images(whole, 8)])

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc,name-defined]
        def get_next(self) -> Any:
            return next(batches, None)

    quantization.quantize_static(str(source), str(path), Reader())
    engine = camrt.load(path, threads=1)
    batch = random_images(whole)
    ours = engine.probabilities(engine.predict(batch))
    assert engine.interface.activation == ("sigmoid" if end == "Sigmoid" else "softmax")
    # a step of 1/255 for the answer, and one of the logits', which the runtime may round the other way
    assert np.abs(ours - run_onnxruntime(path, batch)).max() < 2 / 255
    assert (
        np.abs(ours - (softmax if end == "Softmax" else sigmoid)(whole.logits64(batch))).max() < 0.05
        or end == "mean"
    )
