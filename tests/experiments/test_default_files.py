"""What ships in `camrt.default`: the files are there, small, and say what they are."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from camrt.default import model_path, scene_path
from experiments.default_classes import LABELS


@pytest.fixture(scope="module")
def model():
    return onnx.load(model_path())


@pytest.fixture(scope="module")
def metadata(model):
    return {entry.key: json.loads(entry.value) for entry in model.metadata_props}


def test_sizes():
    assert model_path().stat().st_size <= 2_000_000
    assert scene_path().stat().st_size <= 200_000
    with Image.open(scene_path()) as scene:
        assert min(scene.size) > 500


def test_graph(model):
    onnx.checker.check_model(model, full_check=True)
    kinds = [node.op_type for node in model.graph.node]
    assert "BatchNormalization" not in kinds
    assert {"LogSoftmax", "Softplus", "ReduceLogSumExp"} < set(kinds), "both branches of CALM"
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [18]
    (entry,), leaving = model.graph.input, model.graph.output
    assert entry.name == "input"
    assert [value.name for value in leaving] == ["probabilities", "log_joint", "place_probabilities"]
    first, *rest = entry.type.tensor_type.shape.dim
    assert first.dim_param, "the batch is free"
    assert [dim.dim_value for dim in rest] == [3, 128, 128]
    assert leaving[0].type.tensor_type.shape.dim[1].dim_value == len(LABELS)


def test_metadata(metadata):
    assert metadata["camrt.labels"] == list(LABELS)
    preprocessing = metadata["camrt.preprocessing"]
    assert metadata["camrt.head"]["kind"] == "calm"
    assert preprocessing["size"] == [128, 128]
    assert preprocessing["scale"] == pytest.approx(1 / 255)
    assert {"script", "data", "seed", "epochs", "accuracy"} <= set(metadata["camrt.provenance"])


def test_no_path_of_the_building_machine_is_inside():
    data = model_path().read_bytes()
    for trace in (b"/home/", b"/usr/", b"site-packages", b".py"):
        assert trace not in data, trace


def test_the_scene_shows_what_it_should(model, metadata):
    preprocessing = metadata["camrt.preprocessing"]
    with Image.open(scene_path()) as scene:
        squashed = scene.convert("RGB").resize((128, 128), Image.Resampling.BILINEAR)
    pixels = np.asarray(squashed) * preprocessing["scale"]
    inputs = ((pixels - preprocessing["mean"]) / preprocessing["std"]).transpose(2, 0, 1)[None]
    session = onnxruntime.InferenceSession(model_path(), providers=["CPUExecutionProvider"])
    (shares,) = session.run(["probabilities"], {"input": np.repeat(inputs, 2, 0).astype(np.float32)})
    assert shares.shape == (2, len(LABELS))
    assert abs(shares[0].sum() - 1) < 1e-5
    best = [LABELS[index] for index in np.argsort(-shares[0])]
    assert best[:3] == ["car", "bus", "banana"]  # which the yellow front of a taxi passes for
