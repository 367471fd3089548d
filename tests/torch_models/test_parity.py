"""A module, its `torch.export` file and its ONNX file give the same maps, by every method."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import camrt
from camrt.engine.torch_models.load import load_module
from camrt.errors import BackendError, MethodError, ModelFileError, UnsupportedModelError
from camrt.export.io.torch_archive import open_archive
from helpers.few_passes import FEW_PASSES, OF_FILES_WITH_LOGITS, OF_SPECIAL_MODELS, PRODUCTS
from helpers.peer_libraries import import_peer
from helpers.tolerances import assert_close
from helpers.torch_nets import CLASSES, Functional, Modular, Transformer, build_net, nn, random_images, torch

pytest.importorskip("onnxscript")

from camrt.engine.torch_models.to_onnx import to_onnx

# Of products with guided back-propagation two stand for all; CALM models: test_calm.
OTHERS = {*PRODUCTS, *OF_FILES_WITH_LOGITS, *OF_SPECIAL_MODELS} - {"guided-gradcam", "guided-pixab"}
METHODS = sorted(set(camrt.methods()) - OTHERS)
# Opti-CAM's hundred steps magnify rounding, and among fifty images there is one where some ReLU's input is
# nearer to zero than two runtimes agree: a gradient on another side of it is another one.
OPTIONS = {
    "opticam": {"steps": 3},
    "integrated": {"steps": 3},
    "integrated-textbook": {"steps": 3},
    "smoothgrad": {"draws": 3},
    "smoothgradcam++": {"draws": 3},
    "vargrad": {"draws": 3},
    **FEW_PASSES,
}
# In many layers it happens among the six noisy images too: a few pixels then differ.
DEEP, NOISY = {"resnet", "mobilenet_v3"}, {"smoothgrad", "vargrad", "expected-gradients"}
# Two runtimes, several layers forth and back, and divisions by scores that may be small.
FACTOR = 200


def resnet(models):
    class Narrow(models.ResNet):
        def _make_layer(self, block, planes, *options, **more):
            return super()._make_layer(block, planes // 8, *options, **more)

    net = Narrow(models.resnet.BasicBlock, [1, 1, 1, 1])
    net.fc = nn.Linear(64, CLASSES)
    return net


def vgg(models):
    with torch.device("meta"):  # its own classifier holds 120 million numbers
        net = models.VGG(nn.Identity(), init_weights=False)
    net.features = models.vgg.make_layers([16, "M", 32, "M", 48, 48, "M"])
    net.avgpool = nn.AdaptiveAvgPool2d(2)
    net.classifier = nn.Sequential(nn.Linear(192, 9), nn.ReLU(inplace=True), nn.Linear(9, CLASSES))
    return net


def mobilenet(models):
    layers = [(16, 3, 16, 16, True, "RE", 2), (16, 3, 48, 12, False, "RE", 2), (12, 5, 36, 12, True, "HS", 2)]
    blocks = [models.mobilenetv3.InvertedResidualConfig(*layer, 1, 1.0) for layer in layers]
    return models.MobileNetV3(blocks, last_channel=32, num_classes=CLASSES)


NETS = {
    "modular": (lambda _: Modular(), (12, 16), "relu"),
    "functional": (lambda _: Functional(), (12, 16), "second"),
    "transformer": (lambda _: Transformer(), (12, 16), "blocks.1"),
    "resnet": (resnet, (48, 48), "layer4"),
    "vgg": (vgg, (32, 32), "features"),
    "mobilenet_v3": (mobilenet, (48, 48), "features"),
}


@dataclass
class Trio:
    """A module, its ONNX file and its torch.export file as engines."""

    name: str
    net: Any
    exported: Path
    module: camrt.Engine
    file: camrt.Engine
    saved: camrt.Engine
    size: tuple[int, int]


@pytest.fixture(scope="module", params=NETS)
def trio(request, tmp_path_factory):
    build, size, target = NETS[request.param]
    net = build_net(lambda: build(import_peer("torchvision").models))
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            part.momentum = None  # statistics are those of the next batch: no activation fades
    net.train()(torch.from_numpy(random_images(8, *size, seed=1)))
    net.eval()
    folder = tmp_path_factory.mktemp(request.param)
    example = torch.from_numpy(random_images(2, *size))
    exported = save(net, example, folder / "net.pt2")
    return Trio(
        request.param,
        net,
        exported,
        load_module(net, target=target, size=size),
        camrt.load(to_onnx(net, example, folder / "net.onnx"), threads=1),
        load_module(opened(exported), target=target),
        size,
    )


def opened(path):
    return open_archive(path, trusted=True)


def save(net, example, path, dynamic=True):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of torch's own
        shapes = ({0: torch.export.Dim("n")},) if dynamic else None
        torch.export.save(torch.export.export(net, (example,), dynamic_shapes=shapes), path)
    return path


@pytest.mark.parametrize("method", METHODS)
def test_every_method(trio, method):
    module, file, saved, name = trio.module, trio.file, trio.saved, trio.name
    batch = random_images(2, *trio.size, seed=4)
    if method.startswith("guided") and name == "transformer":
        pytest.skip("it has no ReLU")
    if method == "hirescam" and name == "transformer":
        pytest.skip("behind a LayerNorm, which no scale gets through, its terms all but cancel")
    options = {"targets": np.array([1, 3]), **OPTIONS.get(method, {})}
    if method == "cam" and not file.head.has_class_maps:
        for one in (file, module, saved):
            with pytest.raises(MethodError, match="linear layer behind global pooling"):
                one.explain(batch, method, **options)
        return
    found, again = (one.explain(batch, method, **options) for one in (module, saved))
    assert_close(again.logits, found.logits, factor=4)  # batch norm may be computed in another way
    assert_close(again.raw, found.raw, factor=FACTOR)
    if file.target.shape != module.target.shape or name == "functional":
        assert name == "functional"  # its file is cut behind the ReLU that no module is
        return
    if method == "fullgrad" and name == "modular":
        return  # the bias of a convolution and that of the normalisation folded into it are one in the file
    expected = file.explain(batch, method, **options)
    assert_close(found.logits, expected.logits, factor=16)  # two runtimes, many layers
    if name in DEEP and method in NOISY:
        assert np.linalg.norm(found.raw - expected.raw) < 0.01 * np.linalg.norm(expected.raw)
        return
    assert_close(found.raw, expected.raw, factor=FACTOR)
    assert_close(found.maps, expected.maps, factor=FACTOR)


def test_a_file_knows_its_input(trio):
    module, saved = trio.module, trio.saved
    assert (saved.interface.height, saved.interface.width, saved.interface.batch) == (*trio.size, None)
    assert saved.interface.channels == 3
    assert saved.path.name == "net.pt2"
    assert len(saved.sha256) == 64
    assert saved.target.operator == module.target.operator
    assert ("left out" in saved.head.describe()) == ("left out" in module.head.describe())


@pytest.mark.parametrize("trio", ["modular", "functional", "transformer"], indirect=True)
def test_a_file_is_cut_where_its_module_is(trio):
    saved, module = load_module(opened(trio.exported)), load_module(trio.net, size=(12, 16))
    assert saved.target.shape == module.target.shape
    found, expected = (one.explain(random_images(), "gradcam", targets=2) for one in (saved, module))
    assert_close(found.raw, expected.raw, factor=16)  # batch norm may be computed in another way


def test_a_file_of_a_fixed_batch_size(tmp_path):
    net = build_net(Modular)
    saved = load_module(
        opened(save(net, torch.from_numpy(random_images(2)), tmp_path / "net.pt2", dynamic=False))
    )
    assert saved.interface.batch == 2
    assert any("fixed at 2" in note for note in saved.notes)
    module = load_module(net, target=saved.target.name.partition("@")[0], size=(12, 16))
    for method in ("gradcam", "pixab", "ablation", "guided", "score"):
        found, expected = (one.explain(random_images(5), method, targets=2) for one in (saved, module))
        assert_close(found.raw, expected.raw, factor=FACTOR)


def test_files_that_are_none(tmp_path):
    path = tmp_path / "net.pt2"
    with pytest.raises(ModelFileError, match="cannot be read"):
        opened(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ModelFileError, match=r"is no file of torch.export.save"):
        opened(path)
    net = build_net(Modular).train()
    with pytest.raises(UnsupportedModelError, match=r"training mode.*module.eval\(\) before"):
        load_module(opened(save(net, torch.from_numpy(random_images(2)), path)))
    with pytest.raises(BackendError, match="device"):
        load_module(opened(save(net.eval(), torch.from_numpy(random_images(2)), path)), device="cuda")
