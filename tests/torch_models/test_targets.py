"""Where a module is cut: the default, what is listed, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from camrt.engine.torch_models.load import load_module
from camrt.errors import CutError, InputError
from camrt.export.heads.cut import ACTIVATION
from helpers.peer_libraries import import_peer
from helpers.tolerances import assert_close
from helpers.torch_nets import (
    CLASSES,
    Functional,
    Modular,
    Residual,
    Transformer,
    activation_and_gradient,
    build_net,
    functional,
    nn,
    random_images,
    torch,
)


class Squeezed(nn.Module):
    """Class maps by a 1×1 convolution, then pooling: no weights behind them."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(6, CLASSES, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, batch):
        return self.classifier(self.features(batch)).flatten(1)


class Flattened(nn.Module):
    """Max pooling, average pooling to a fixed size, and layers of units behind it."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2))
        self.avgpool = nn.AdaptiveAvgPool2d((3, 4))
        self.classifier = nn.Sequential(nn.Linear(72, 9), nn.ReLU(), nn.Dropout(), nn.Linear(9, CLASSES))

    def forward(self, batch):
        return self.classifier(self.avgpool(self.features(batch)).flatten(1))


class Branched(nn.Module):
    """Two branches, put together by a function: no module gives what is pooled."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.left, self.right = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 3, 3, 1, 1)
        self.head = nn.Linear(7, CLASSES)

    def forward(self, batch):
        x = functional.relu(self.stem(batch))
        x = torch.cat([self.left(x), self.right(x)], dim=1)
        return self.head(functional.relu(x).mean((2, 3)))


class ChannelsLast(nn.Module):
    """Layers on (N, h, w, K), as in hierarchical transformers."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 7, 4, 4)
        self.norm = nn.LayerNorm(7)
        self.head = nn.Linear(7, CLASSES)

    def forward(self, batch):
        x = self.norm(self.patches(batch).permute(0, 2, 3, 1))
        return self.head(functional.gelu(x).mean((1, 2)))


class TwoBranches(nn.Module):
    """Two views of the image that meet in the logits alone."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv2d(3, 8, 5, 4, 2), nn.ReLU())
        self.first, self.second = nn.Linear(6, CLASSES), nn.Linear(8, CLASSES)

    def forward(self, batch):
        return self.first(self.fine(batch).mean((2, 3))) + self.second(self.coarse(batch).mean((2, 3)))


class Woven(nn.Module):
    """Tokens that two streams are added up to within a block, as in a transformer in transformer."""

    def __init__(self):
        super().__init__()
        self.patches, self.pixels = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(3, 8, 4, 4)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, batch):
        x = self.patches(batch).flatten(2).mT + self.pixels(batch).flatten(2).mT.relu()
        y = self.norm(x)
        return self.head((x + self.attention(y, y, y)[0])[:, 0])


DEFAULTS = [
    (Modular, "relu", (7, 3, 4)),  # called twice: its last call is the last map
    (Functional, "second", (6, 6, 8)),
    (Residual, "relu", (7, 3, 4)),
    (Squeezed, "features", (6, 6, 8)),
    (Flattened, "features", (6, 6, 8)),
    (Branched, "stem", (6, 6, 8)),
    (ChannelsLast, "norm", (7, 3, 4)),
    (Transformer, "blocks.1", (8, 3, 4)),
]


@pytest.mark.parametrize(
    ("kind", "path", "shape"), DEFAULTS, ids=lambda value: getattr(value, "__name__", "")
)
def test_the_default(kind, path, shape):
    net = build_net(kind)
    engine = load_module(net, size=(12, 16))
    assert (engine.target.name, engine.target.shape) == (path, shape)
    assert [target.name for target in engine.targets() if target.chosen] == [path]
    (activation,) = engine._model(random_images(), [ACTIVATION])
    classes = np.array([0, 2, 4])
    values, gradient = activation_and_gradient(net, path, random_images(), classes)
    if kind is Transformer:
        values, gradient = (tokens[:, 1:].swapaxes(1, 2).reshape(3, 8, 3, 4) for tokens in (values, gradient))
    if kind is ChannelsLast:
        values, gradient = values.transpose(0, 3, 1, 2), gradient.transpose(0, 3, 1, 2)
    assert_close(activation, values, "float32", factor=4)  # several layers' rounding
    found = engine.explain(random_images(), "hirescam", targets=classes, size="map").raw
    terms = values * gradient
    # the sum's own size may be far below that of its terms
    factor = 8 * np.abs(terms).sum(axis=1).max() / np.abs(terms.sum(axis=1)).max()
    assert_close(found, terms.sum(axis=1), "float32", factor=factor)


def test_two_branches_are_two_targets():
    net = build_net(TwoBranches)
    both = load_module(net, size=(12, 16))
    assert [cut.target.name for cut in both.cuts] == ["fine", "coarse"]
    assert [cut.target.clean for cut in both.cuts] == [False, False]
    assert [target.name for target in both.targets() if target.chosen] == ["fine", "coarse"]
    named = load_module(net, target=["fine", "coarse"], size=(12, 16))
    classes = np.array([0, 2, 4])
    for method in ("gradcam", "pixab"):
        ours, theirs = (one.explain(random_images(), method, targets=classes).maps for one in (both, named))
        assert_close(ours, theirs)
    for number, path in enumerate(("fine", "coarse")):
        values, _ = activation_and_gradient(net, path, random_images(), classes)
        (found,) = both._model(random_images(), [both.cuts[number].taps[ACTIVATION]])
        assert_close(found, values, "float32", factor=4)  # several layers' rounding


def test_a_tensor_that_no_module_gives():
    """What first works on it stands for it, where no module before it has all of it."""
    engine = load_module(build_net(Woven), size=(12, 16))
    assert (engine.target.name, engine.target.shape) == ("norm", (8, 3, 4))
    assert not engine.target.clean


ARCHITECTURES = [
    ("resnet18", "layer4"),
    ("vgg11", "features"),
    ("mobilenet_v3_small", "features"),
    ("squeezenet1_1", "features"),
]


@pytest.mark.parametrize(("name", "path"), ARCHITECTURES)
def test_the_default_of_an_architecture(name, path):
    models = import_peer("torchvision").models
    net = getattr(models, name)(num_classes=CLASSES).eval()
    if name == "vgg11":
        net.avgpool, net.classifier = nn.AdaptiveAvgPool2d(2), nn.Linear(2048, CLASSES)
    engine = load_module(net, size=(64, 64))
    assert engine.target.name == path
    assert engine.target.shape[1:] == (2, 2) if name != "squeezenet1_1" else (3, 3)
    assert "left out" in engine.head.describe()


def test_the_default_of_a_hierarchical_transformer():
    """Its last map is channels first again, behind layers on (N, h, w, K)."""
    models = import_peer("torchvision").models
    net = models.SwinTransformer([4, 4], 8, [1, 1], [1, 2], [2, 2], num_classes=CLASSES).eval()
    engine = load_module(net, size=(32, 32))
    assert engine.target.name == "permute"
    assert engine.target.shape == (16, 4, 4)
    shapes = {target.name: target.shape for target in engine.targets()}
    assert shapes["features.1"] == (8, 8, 8)
    assert shapes["features.3"] == (16, 4, 4)


def test_the_default_of_a_vision_transformer():
    models = import_peer("torchvision").models
    net = models.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=CLASSES).eval()
    engine = load_module(net, size=(32, 32))
    assert engine.target.name == "encoder.layers.encoder_layer_1"
    assert engine.target.shape == (16, 4, 4)


def test_the_default_of_a_vision_transformer_with_registers():
    timm = import_peer("timm")
    net = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3, num_classes=CLASSES, reg_tokens=4
    ).eval()
    engine = load_module(net, size=(32, 32))
    assert engine.target.name == "blocks.1"
    assert engine.target.shape == (192, 4, 4)
    assert "left out" in engine.head.describe()


@pytest.mark.parametrize("name", ["tnt_s_patch16_224", "tnt_s_legacy_patch16_224"])
def test_the_default_has_the_cells_of_what_no_module_gives(name):
    """Tokens are put together by a function; what comes before the blocks has finer cells: not meant."""
    timm = import_peer("timm")
    net = timm.create_model(name, img_size=64, depth=2, num_classes=CLASSES)
    engine = load_module(net.eval(), size=(64, 64))
    assert engine.target.name == "blocks.1.norm_out"
    assert engine.target.shape == (384, 4, 4)


def test_targets_lists_maps_and_says_what_goes_around():
    listed = {target.name: target for target in load_module(build_net(Residual), size=(12, 16)).targets()}
    assert set(listed) == {"stem", "stem.0", "stem.1", "stem.2", "body", "last", "relu"}
    assert {name for name, target in listed.items() if not target.clean} == {"body"}
    assert listed["stem"].shape == (6, 6, 8)
    assert listed["stem.0"].operator == "Conv2d"


@pytest.mark.parametrize("path", ["stem", "stem.0", "stem.1", "stem.2", "body", "relu", "last"])
def test_any_module_of_a_map_can_be_the_target(path):
    """An in-place layer behind it changes nothing of what is captured."""
    net = build_net(Modular)
    engine = load_module(net, target=path, size=(12, 16))
    classes = np.array([1, 1, 3])
    values, gradient = activation_and_gradient(net, path, random_images(), classes)
    raw = engine.explain(random_images(), "activation", size="map").raw
    assert_close(raw, values.sum(axis=1), "float32", factor=4)  # several layers' rounding
    found = engine.explain(random_images(), "hirescam", targets=classes, size="map").raw
    assert_close(found, (values * gradient).sum(axis=1), "float32", factor=8)  # twice as many


def test_several_targets():
    net = build_net(Modular)
    both = load_module(net, target=["stem", "last"], size=(12, 16))
    assert [cut.target.name for cut in both.cuts] == ["stem", "last"]
    for method in ("gradcam", "pixab"):
        maps = [
            load_module(net, target=path, size=(12, 16)).explain(random_images(), method).maps
            for path in ("stem", "last")
        ]
        fused = both.explain(random_images(), method, fuse="max").maps
        higher = np.max(maps, axis=0)
        peaks = higher.max(axis=(1, 2), keepdims=True)
        lows = higher.min(axis=(1, 2), keepdims=True) if method == "pixab" else np.zeros_like(peaks)
        assert_close(fused, (higher - lows) / (peaks - lows))


def test_a_grid_that_is_said():
    net = build_net(Transformer)
    engine = load_module(net, target="blocks.0", size=(12, 16), grid=(2, 6))
    assert engine.target.shape == (8, 2, 6)
    assert load_module(net, target="blocks.0", size=(12, 16)).target.shape == (8, 3, 4)


def test_what_is_no_target():
    net = build_net(Modular)
    with pytest.raises(CutError, match=r"'nothing' is no module's path; the last candidates are .*'relu'"):
        load_module(net, target="nothing", size=(12, 16))
    with pytest.raises(CutError, match=r"'head' gives \(2, 5\), no map"):
        load_module(net, target="head", size=(12, 16))
    with pytest.raises(CutError, match="'' is no module's path"):
        load_module(net, target="", size=(12, 16))
    net.spare = nn.Conv2d(3, 4, 1)
    with pytest.raises(CutError, match="'spare' was not called in a forward pass"):
        load_module(net, target="spare", size=(12, 16))
    with pytest.raises(InputError, match="list of different names"):
        load_module(net, target=["stem", "stem"], size=(12, 16))
    with pytest.raises(CutError, match=r"'blocks.0' gives \(2, 13, 8\), no map.*grid"):
        load_module(build_net(Transformer), target="blocks.0", size=(12, 16), grid=(5, 5))


def test_a_module_without_maps():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3 * 12 * 16, CLASSES)

        def forward(self, batch):
            return self.head(batch.flatten(1))

    with pytest.raises(CutError, match=r"no module of this model gives a map .*grid=\(h, w\)"):
        load_module(build_net(Flat), example=random_images())
