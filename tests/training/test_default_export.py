import json

import numpy as np
import onnxruntime
import pytest

from camrt.errors import ModelFileError

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import torch

from camrt.training.default_export import preprocessing, save_checked, to_onnx
from camrt.training.small_network import SmallNetwork


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    fresh = SmallNetwork(5)
    fresh(torch.randn(8, 3, 64, 64) * 2 + 1)
    return fresh.eval()


@pytest.fixture(scope="module")
def model(network):
    metadata = {
        "labels": ["ä", "b", "c", "d", "e"],
        "preprocessing": preprocessing(64, (0.5,) * 3, (0.2,) * 3),
    }
    return to_onnx(network, 64, metadata)


@pytest.fixture
def inputs():
    return np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32)


def test_the_file_answers_as_the_network_does(tmp_path, network, model, inputs):
    path = tmp_path / "new" / "small.onnx"
    assert save_checked(model, path, network, inputs) < 1e-4
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    stored = session.get_modelmeta().custom_metadata_map
    assert json.loads(stored["camrt.labels"])[0] == "ä"
    assert json.loads(stored["camrt.preprocessing"])["size"] == [64, 64]
    assert [entry.name for entry in path.parent.iterdir()] == ["small.onnx"], "no draft is left"


def test_the_graph_is_plain(model):
    kinds = {node.op_type for node in model.graph.node}
    assert kinds == {"Conv", "Relu", "Add", "ReduceMean", "Gemm"}
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_a_file_that_disagrees_never_takes_the_place(tmp_path, network, model, inputs):
    path = tmp_path / "small.onnx"
    path.write_bytes(b"the one before")
    other = SmallNetwork(5).eval()
    with pytest.raises(ModelFileError, match="differ"):
        save_checked(model, path, other, inputs)
    with torch.no_grad():
        other.head.bias.fill_(float("nan"))
    with pytest.raises(ModelFileError, match="differ"):
        save_checked(model, path, other, inputs)
    assert path.read_bytes() == b"the one before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.onnx"]
