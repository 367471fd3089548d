"""A module, its `torch.export` file and its ONNX file give the same maps, by every method."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import camrt
from camrt.engine.torch_models.load import load_module
from camrt.errors import BackendError, MethodError, ModelFileError, UnsupportedModelError
from camrt.export.io.torch_archive import open_archive
from helpers.peer_libraries import import_peer
from helpers.tolerances import assert_close
from helpers.torch_nets import CLASSES, Functional, Modular, Transformer, build_net, nn, random_images, torch

pytest.importorskip("onnxscript")

from camrt.engine.torch_models.to_onnx import to_onnx

METHODS = sorted(set(camrt.methods()) - {"calm"})  # CALM models: test_calm
# Opti-CAM's hundred steps magnify rounding, and among fifty images there is one where some ReLU's input is
# nearer to zero than two runtimes agree: a gradient on another side of it is another one.
OPTIONS = {
    "opticam": {"steps": 3},
    "integrated": {"steps": 3},
    "integrated-textbook": {"steps": 3},
    "smoothgrad": {"draws": 3},
    "vargrad": {"draws": 3},
}
# In twenty layers it happens among the six noisy images too: a few pixels then differ.
DEEP, NOISY = {"resnet18", "mobilenet_v3_small"}, {"smoothgrad", "vargrad"}
# Two runtimes, several layers forth and back, and divisions by scores that may be small.
FACTOR = 200


def vgg(models):
    net = models.vgg11(num_classes=CLASSES)
    net.features = net.features[:11]
    net.avgpool = nn.AdaptiveAvgPool2d(2)
    net.classifier = nn.Sequential(nn.Linear(1024, 9), nn.ReLU(inplace=True), nn.Linear(9, CLASSES))
    return net


NETS = {
    "modular": (lambda _: Modular(), (12, 16), "relu"),
    "functional": (lambda _: Functional(), (12, 16), "second"),
    "transformer": (lambda _: Transformer(), (12, 16), "blocks.1"),
    "resnet18": (lambda models: models.resnet18(num_classes=CLASSES), (64, 64), "layer4"),
    "vgg11": (vgg, (32, 32), "features"),
    "mobilenet_v3_small": (
        lambda models: models.mobilenet_v3_small(num_classes=CLASSES),
        (64, 64),
        "features",
    ),
}


@pytest.fixture(scope="module", params=NETS)
def trio(request, tmp_path_factory):
    """The module, its ONNX file and its torch.export file as engines, and the size of their images."""
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
    file = camrt.load(to_onnx(net, example, folder / "net.onnx"), threads=1)
    module = load_module(net, target=target, size=size)
    if request.param == "mobilenet_v3_small":
        return module, file, None, size  # exported twice, it takes longest of all
    return module, file, load_module(opened(save(net, example, folder / "net.pt2")), target=target), size


def opened(path):
    return open_archive(path, trusted=True)


def save(net, example, path, dynamic=True):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of torch's own
        shapes = ({0: torch.export.Dim("n")},) if dynamic else None
        torch.export.save(torch.export.export(net, (example,), dynamic_shapes=shapes), path)
    return path


@pytest.mark.parametrize("method", METHODS)
def test_every_method(trio, method, request):
    module, file, saved, size = trio
    batch = random_images(2, *size, seed=4)
    name = request.node.callspec.params["trio"]
    classes = np.array([1, 3])
    if method.startswith("guided") and name == "transformer":
        pytest.skip("it has no ReLU")
    if method == "hirescam" and name == "transformer":
        pytest.skip("behind a LayerNorm, which no scale gets through, its terms all but cancel")
    if method in ("ablation", "score") and file.target.shape[0] > 300:
        batch, classes = batch[:1], classes[:1]
    options = {"targets": classes, **OPTIONS.get(method, {})}
    if method == "cam" and not file.head.has_class_maps:
        for one in (file, module, saved):
            with pytest.raises(MethodError, match="linear layer behind global pooling"):
                (one or module).explain(batch, method, **options)
        return
    found = module.explain(batch, method, **options)
    if saved is not None:
        again = saved.explain(batch, method, **options)
        assert_close(again.logits, found.logits, factor=4)  # batch norm may be computed in another way
        assert_close(again.raw, found.raw, factor=FACTOR)
    if file.target.shape != module.target.shape or name == "functional":
        assert name == "functional"  # its file is cut behind the ReLU that no module is
        return
    expected = file.explain(batch, method, **options)
    assert_close(found.logits, expected.logits, factor=16)  # two runtimes, up to twenty layers
    if name in DEEP and method in NOISY:
        assert np.linalg.norm(found.raw - expected.raw) < 0.01 * np.linalg.norm(expected.raw)
        return
    assert_close(found.raw, expected.raw, factor=FACTOR)
    assert_close(found.maps, expected.maps, factor=FACTOR)


def test_a_file_knows_its_input(trio):
    module, _, saved, size = trio
    if saved is None:
        pytest.skip("not exported")
    assert (saved.interface.height, saved.interface.width, saved.interface.batch) == (*size, None)
    assert saved.interface.channels == 3
    assert saved.path.name == "net.pt2"
    assert len(saved.sha256) == 64
    assert saved.target.operator == module.target.operator
    assert ("are left out" in saved.head.describe()) == ("are left out" in module.head.describe())


@pytest.mark.parametrize("kind", [Modular, Functional, Transformer])
def test_a_file_is_cut_where_its_module_is(kind, tmp_path):
    net = build_net(kind)
    saved = load_module(opened(save(net, torch.from_numpy(random_images(2)), tmp_path / "net.pt2")))
    module = load_module(net, size=(12, 16))
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
