"""Architectures as people export them: where they are cut, what their heads are, and that the answers hold.

Weights are random, images small, and wide layers behind a flattened map narrowed: nothing here depends on
the size. A few are tried each time; CAMRT_ALL_ARCHITECTURES=1 tries all, by both exporters, which takes ten
minutes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

import camrt
from camrt.engine import cuts
from camrt.errors import CutError
from camrt.export.heads.factoring import Unfactored
from helpers.peer_libraries import import_peer
from helpers.tolerances import assert_close
from helpers.torch_exporters import export, silence_exporters

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

CLASSES = 10
# Dozens of layers, summed in another order than torch's.
DEEP = 16.0
# Maps are differences of logits that agree in most of their digits: what rounding leaves of them.
DIFFERENCES = 100.0


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        name: torchvision's name of the function that makes it.
        kind: Kind of head that should be found.
        target: Shape (K, h, w) it should be cut at.
        size: Height and width of the images.
        narrowed: Side of the flattened map that wide classifiers read; None for no change.
        quick: Whether it takes part when not all were asked for.
        options: Arguments of that function.
    """

    name: str
    kind: str
    target: tuple[int, int, int]
    size: int = 64
    narrowed: int | None = None
    quick: bool = False
    options: tuple[tuple[str, object], ...] = ()


NO_AUXILIARY = (("aux_logits", False), ("init_weights", False))
ARCHITECTURES = [
    Architecture("resnet18", "pooled-linear", (512, 2, 2), quick=True),
    Architecture("resnext50_32x4d", "pooled-linear", (2048, 2, 2)),
    Architecture("vgg11", "flattened-network", (512, 2, 2), narrowed=2, quick=True),
    Architecture("vgg16", "flattened-network", (512, 2, 2), narrowed=2),
    Architecture("alexnet", "flattened-network", (256, 2, 2), 96, narrowed=2),
    Architecture("densenet121", "pooled-linear", (1024, 2, 2)),
    Architecture("googlenet", "pooled-linear", (1024, 3, 3), 96, options=NO_AUXILIARY),
    Architecture("inception_v3", "pooled-linear", (2048, 2, 2), 128, options=NO_AUXILIARY),
    Architecture("mobilenet_v2", "pooled-linear", (1280, 2, 2)),
    Architecture("mobilenet_v3_small", "pooled-network", (576, 2, 2), quick=True),
    Architecture("efficientnet_b0", "pooled-linear", (1280, 2, 2)),
    Architecture("squeezenet1_1", "pooled-linear", (512, 3, 3), quick=True),
    Architecture("shufflenet_v2_x0_5", "pooled-linear", (1024, 2, 2), quick=True),
    Architecture("mnasnet0_5", "pooled-linear", (1280, 2, 2)),
    Architecture("regnet_x_400mf", "pooled-linear", (400, 2, 2)),
    Architecture("regnet_y_400mf", "pooled-linear", (440, 2, 2)),
    Architecture("convnext_tiny", "pooled-network", (768, 2, 2)),
    Architecture("swin_t", "pooled", (768, 2, 2)),
]
# (dynamo, open batch axis): the two exporters, and the two kinds of file each writes.
MODES = {
    "dynamo": (True, True),
    "dynamo-fixed": (True, False),
    "script": (False, True),
    "script-fixed": (False, False),
}
# Exporting is slow: the new exporter is tried on one architecture each time, the old one on several.
QUICK_DYNAMO = {"resnet18"}
QUICK_FIXED = {"shufflenet_v2_x0_5", "vgg11"}


def is_quick(architecture, mode):
    if mode == "dynamo":
        return architecture.name in QUICK_DYNAMO
    return architecture.quick and mode == ("script-fixed" if architecture.name in QUICK_FIXED else "script")


CHOSEN = [
    pytest.param(architecture, mode, id=f"{architecture.name}-{mode}")
    for architecture in ARCHITECTURES
    for mode in MODES
    if os.environ.get("CAMRT_ALL_ARCHITECTURES") == "1" or is_quick(architecture, mode)
]


@pytest.fixture(scope="session")
def torchvision():
    return import_peer("torchvision")


def build(torchvision, architecture):
    torch.manual_seed(0)
    net = getattr(torchvision.models, architecture.name)(num_classes=CLASSES, **dict(architecture.options))
    if architecture.narrowed is not None:
        narrow(net, architecture)
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(0.1 * torch.randn(module.running_mean.shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return net.eval()


def narrow(net, architecture):
    """A classifier of 4096 units a layer on 7×7 cells, made small."""
    side = architecture.narrowed
    net.avgpool = torch.nn.AdaptiveAvgPool2d(side)
    layers = [i for i, layer in enumerate(net.classifier) if isinstance(layer, torch.nn.Linear)]
    widths = [architecture.target[0] * side * side, 48, 32, CLASSES]
    for index, (before, after) in zip(layers, pairwise(widths), strict=True):
        net.classifier[index] = torch.nn.Linear(before, after)


def forced_generic(path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "factor_head", lambda *_: Unfactored("asked for"))
        return camrt.load(path, batch_size=64)


def assert_explains_as_the_graph_does(path, batch, channels_limit=600):
    """Shortcuts against running the head's own graph, for two target classes an image."""
    ours, graphs = camrt.load(path, batch_size=8), forced_generic(path)
    targets = np.array([[0, 3], [1, 9]])
    methods = [("pixab", {"score": "logit"}), ("pixab", {})]
    methods += [("ablation", {"score": "probability"})]
    for method, options in methods:
        few = batch[:1] if method == "ablation" and ours.target.shape[0] > channels_limit else batch[:2]
        answer, expected = (
            engine.explain(few, method, targets=targets[: len(few)], size="map", **options)
            for engine in (ours, graphs)
        )
        assert_close(answer.raw, expected.raw, np.float32, factor=DIFFERENCES)
        assert_close(answer.scores, expected.scores, np.float32, factor=DEEP)


@pytest.mark.parametrize(("architecture", "mode"), CHOSEN)
@torch.no_grad()
def test_an_exported_architecture(architecture, mode, torchvision, tmp_path):
    dynamo, opened = MODES[mode]
    net = build(torchvision, architecture)
    path = export(net, (architecture.size,) * 2, tmp_path / "model.onnx", dynamo=dynamo, opened=opened)
    engine = camrt.load(path, batch_size=8)
    assert engine.target.shape == architecture.target
    assert engine.head.kind.startswith(architecture.kind)
    size = architecture.size
    batch = np.random.default_rng(0).standard_normal((3, 3, size, size), np.float32)
    assert_close(engine.predict(batch), net(torch.from_numpy(batch)).numpy(), factor=DEEP)
    assert_explains_as_the_graph_does(path, batch)


@pytest.mark.parametrize("mode", ["script", "script-fixed", "dynamo"])
@torch.no_grad()
def test_a_vision_transformer_is_cut_at_its_patches(mode, torchvision, tmp_path):
    """The only (N, K, h, w) activation it has; what follows is run as it is."""
    dynamo, opened = MODES[mode]
    torch.manual_seed(0)
    net = torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=CLASSES).eval()
    torch.nn.init.normal_(net.heads[-1].weight)  # zero at first, and then every logit is
    path = export(net, (32, 32), tmp_path / "model.onnx", dynamo=dynamo, opened=opened)
    batch = np.random.default_rng(0).standard_normal((3, 3, 32, 32), np.float32)
    engine = camrt.load(path)
    assert engine.target.shape == (16, 4, 4)
    assert engine.head.kind == "generic"
    assert_close(engine.predict(batch), net(torch.from_numpy(batch)).numpy(), factor=DEEP)
    with pytest.raises(CutError):
        camrt.load(path, target="nothing")


class Blocks(torch.nn.Module):
    """A small network of any head, to try what people write in forward()."""

    def __init__(self, head, size=8):
        super().__init__()
        self.trunk = torch.nn.Sequential(
            torch.nn.Conv2d(3, 6, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(6, 8, 3, 1, 1), torch.nn.ReLU()
        )
        self.linear = torch.nn.Linear(8, CLASSES)
        self.wide = torch.nn.Linear(8 * size * size, CLASSES)
        self.head = head

    def forward(self, images):
        return self.head(self, self.trunk(images))


WRITTEN = {
    "mean-of-two-axes": (lambda net, x: net.linear(x.mean((2, 3))), "pooled-linear"),
    "mean-twice": (lambda net, x: net.linear(x.mean(3).mean(2)), "pooled-linear"),
    "view-by-size": (
        lambda net, x: net.linear(torch.nn.functional.adaptive_avg_pool2d(x, 1).view(x.size(0), -1)),
        "pooled-linear",
    ),
    "flatten-by-size": (lambda net, x: net.wide(x.view(x.size(0), -1)), "flattened-linear"),
    "reshape-by-shape": (lambda net, x: net.wide(x.reshape(x.shape[0], 512)), "flattened-linear"),
    "squeeze": (
        lambda net, x: net.linear(torch.nn.functional.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1)),
        "pooled-linear",
    ),
    "channels-last": (lambda net, x: net.linear(x.permute(0, 2, 3, 1).mean((1, 2))), "pooled-linear"),
    "sum": (lambda net, x: net.linear(x.sum((2, 3))), "pooled-linear"),
    "mean-of-cells": (lambda net, x: net.linear(x.flatten(2).mean(2)), "pooled-linear"),
    "log-softmax": (lambda net, x: net.linear(x.mean((2, 3))).log_softmax(1), "pooled-linear"),
    "softmax": (lambda net, x: net.linear(x.mean((2, 3))).softmax(-1), "pooled-linear"),
    "hard-swish": (
        lambda net, x: net.linear(torch.nn.functional.hardswish(x.mean((2, 3)))),
        "pooled-network",
    ),
    "max": (lambda net, x: net.linear(x.amax((2, 3))), "generic"),
}


@pytest.mark.parametrize("mode", ["script", "script-fixed"])
@pytest.mark.parametrize("written", WRITTEN)
@torch.no_grad()
def test_what_people_write_behind_a_trunk(written, mode, tmp_path):
    dynamo, opened = MODES[mode]
    head, kind = WRITTEN[written]
    torch.manual_seed(0)
    net = Blocks(head).eval()
    path = export(net, (16, 16), tmp_path / "model.onnx", dynamo=dynamo, opened=opened)
    engine = camrt.load(path)
    assert engine.target.shape == (8, 8, 8)
    assert engine.head.kind == kind
    assert engine.interface.batch is None
    batch = np.random.default_rng(0).standard_normal((3, 3, 16, 16), np.float32)
    theirs = net(torch.from_numpy(batch)).numpy()
    ours = engine.predict(batch)
    if written == "log-softmax":
        ours = np.log(engine.probabilities(ours))
    elif written == "softmax":
        ours = engine.probabilities(ours)
    assert_close(ours, theirs, factor=DEEP)
    assert_explains_as_the_graph_does(path, batch)


@torch.no_grad()
def test_images_of_open_height_and_width(tmp_path):
    torch.manual_seed(0)
    net = Blocks(WRITTEN["view-by-size"][0]).eval()
    path = tmp_path / "model.onnx"
    with silence_exporters():
        torch.onnx.export(
            net,
            (torch.zeros(2, 3, 16, 16),),
            path,
            dynamo=False,
            input_names=["input"],
            dynamic_axes={"input": {0: "n", 2: "height", 3: "width"}},
        )
    engine = camrt.load(path)
    assert engine.head.kind == "pooled-linear"
    for height, width in ((16, 16), (12, 30)):
        batch = np.random.default_rng(0).standard_normal((2, 3, height, width), np.float32)
        assert_close(engine.predict(batch), net(torch.from_numpy(batch)).numpy(), factor=DEEP)
        assert_explains_as_the_graph_does(path, batch)
