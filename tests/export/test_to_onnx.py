"""Writing a module as an ONNX file that camrt, and anyone else, can read."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import onnx
import pytest

import camrt
from camrt.errors import BackendError, InputError, UnsupportedModelError
from helpers.tolerances import assert_close

pytest.importorskip("onnxscript")
pytest.importorskip("torch")

from camrt.engine.torch_models import to_onnx as onnx_export
from camrt.engine.torch_models.to_onnx import to_onnx
from helpers.torch_nets import CLASSES, Functional, Modular, Transformer, build_net, nn, random_images, torch

EXAMPLE = torch.from_numpy(random_images(2))


def logits_of(net, batch):
    with torch.no_grad():
        return net(torch.from_numpy(batch)).numpy()


@pytest.mark.parametrize("kind", [Modular, Functional, Transformer])
def test_the_file_is_the_module(kind, tmp_path):
    net = build_net(kind)
    path = to_onnx(net, EXAMPLE, tmp_path / "net.onnx", labels=list("äbcde"), preprocessing="imagenet")
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.onnx"], "no draft and no second file is left"
    engine = camrt.load(path)
    assert engine.interface.batch is None
    assert engine.labels == tuple("äbcde")
    assert engine.preprocessing == camrt.Preprocessing.named("imagenet", (12, 16))
    for count in (1, 2, 5):
        batch = random_images(count, seed=count)
        assert_close(engine.predict(batch), logits_of(net, batch), factor=4)  # two runtimes, some layers
    model = onnx.load(path)
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["input", "logits"]
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_the_module_is_as_it_was(tmp_path):
    net = build_net(Modular).train()
    net.stem.eval()
    flags = [part.training for part in net.modules()]
    values = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    random = torch.get_rng_state()
    to_onnx(net, EXAMPLE, tmp_path / "net.onnx")
    assert [part.training for part in net.modules()] == flags
    assert all(torch.equal(tensor, values[name]) for name, tensor in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.backends.mha.get_fastpath_enabled()
    assert not any(part._forward_hooks for part in net.modules())


def test_nothing_is_said(tmp_path, capfd):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        to_onnx(build_net(Modular), EXAMPLE, tmp_path / "net.onnx")
    assert capfd.readouterr() == ("", "")
    assert not heard


def test_options(tmp_path):
    path = to_onnx(build_net(Modular), random_images(1), tmp_path / "net.onnx", opset=20)
    assert onnx.load(path).opset_import[0].version == 20
    assert not onnx.load(path).metadata_props
    assert camrt.load(path).interface.batch is None
    path = to_onnx(build_net(Modular), random_images(3), tmp_path / "net.onnx", dynamic_batch=False)
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3

    class Several(Modular):
        def forward(self, batch):
            logits = super().forward(batch)
            return {"main": logits, "aux": -logits}

    net = build_net(Several)
    path = to_onnx(net, EXAMPLE, tmp_path / "net.onnx", output="main")
    assert_close(
        camrt.load(path).predict(random_images()),
        logits_of(lambda x: net(x)["main"], random_images()),
        factor=4,
    )
    with pytest.raises(UnsupportedModelError, match="several outputs"):
        to_onnx(net, EXAMPLE, path)


def test_other_types(tmp_path):
    net = build_net(Modular).half()
    path = to_onnx(net, EXAMPLE, tmp_path / "net.onnx")
    expected = logits_of(lambda x: net(x.half()).float(), random_images())
    # each of five layers rounds, on both sides
    assert_close(camrt.load(path).predict(random_images()), expected, "float16", factor=20)
    with pytest.raises(BackendError, match=r"ONNX Runtime does not run the exported file.*NOT_IMPLEMENTED"):
        to_onnx(build_net(Modular).double(), EXAMPLE, path)
    assert camrt.load(path).num_classes == CLASSES, "the file before is still there"


def test_a_file_that_disagrees_never_takes_the_place(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"the one before")
    honest = onnx_export.export_graph

    def off_by_a_hundredth(*arguments):
        model = honest(*arguments)
        for weights in model.graph.initializer:
            if weights.name.endswith("head.bias"):
                values = onnx.numpy_helper.to_array(weights)
                weights.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.05), weights.name))
                return model
        raise AssertionError("the bias was not found")

    monkeypatch.setattr(onnx_export, "export_graph", off_by_a_hundredth)
    with pytest.raises(BackendError, match=r"differ from torch's by 0.0\d+ of the largest.*was not written"):
        to_onnx(build_net(Modular), EXAMPLE, path)
    assert path.read_bytes() == b"the one before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.onnx"]


def test_a_batch_size_that_the_code_fixes(tmp_path):
    class Fixing(Modular):
        def forward(self, batch):
            x = self.pool(self.last(self.relu(self.body(self.stem(batch)))))
            return self.head(x.reshape(len(batch), 7))

    net = build_net(Fixing)
    with pytest.raises(BackendError, match=r"fixes the batch size at 2.*write x.shape\[0\]"):
        to_onnx(net, EXAMPLE, tmp_path / "net.onnx")
    path = to_onnx(net, EXAMPLE, tmp_path / "net.onnx", dynamic_batch=False)
    assert_close(camrt.load(path).predict(random_images(2)), logits_of(net, random_images(2)), factor=4)


def test_what_cannot_be_exported(tmp_path, monkeypatch):
    class Counting(Modular):
        def forward(self, batch):
            if batch.sum() > 0:
                return super().forward(batch)
            return super().forward(-batch)

    path = tmp_path / "net.onnx"
    with pytest.raises(BackendError, match="torch could not export the module to ONNX"):
        to_onnx(build_net(Counting), EXAMPLE, path)
    with pytest.raises(
        InputError, match=r"example must be a batch \(N, C, H, W\), this one has shape \(3,\)"
    ):
        to_onnx(build_net(Modular), np.zeros(3), path)
    with pytest.raises(InputError, match="2 labels were given for a model with 5 classes"):
        to_onnx(build_net(Modular), EXAMPLE, path, labels=["a", "b"])
    with pytest.raises(BackendError, match="Modular failed on images of shape"):
        to_onnx(build_net(Modular), np.zeros((1, 4, 8, 8), np.float32), path)
    monkeypatch.setattr(onnx_export, "find_spec", lambda _: None)
    with pytest.raises(BackendError, match=r"onnxscript, which is missing: pip install 'camrt\[torch\]'"):
        to_onnx(build_net(Modular), EXAMPLE, path)
    assert not list(tmp_path.iterdir())


def test_importing_the_room_does_not_import_torch():
    code = "import sys, camrt; assert 'torch' not in sys.modules; camrt.to_onnx"
    assert subprocess.run([sys.executable, "-c", code + "; assert 'torch' in sys.modules"]).returncode == 0


def test_the_number_of_classes_is_the_modules(tmp_path):
    net = build_net(Modular)
    net.head = nn.Linear(7, 1)
    path = to_onnx(net, EXAMPLE, tmp_path / "net.onnx")
    assert camrt.load(path).num_classes == 1 != CLASSES
