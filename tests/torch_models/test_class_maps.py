"""Class maps of modules: at each cell the logits that the module gives when that cell is everywhere."""

from __future__ import annotations

import numpy as np
import pytest

import camrt
from camrt.engine.torch_models.load import load_module
from camrt.errors import BackendError, MethodError
from helpers.tolerances import assert_close
from helpers.torch_nets import CLASSES, altered_logits, build_net, functional, nn, random_images, torch

WIDTH = 6
# Two convolutions and up to three layers behind them in float32, against float64.
FACTOR = 16


class Net(nn.Module):
    """A stem that gives (N, 6, 3, 4), and a head that was given."""

    def __init__(self, head):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, 2, 1)
        self.body = nn.Conv2d(WIDTH, WIDTH, 3, 2, 1)
        self.head = head

    def forward(self, batch):
        return self.head(self.body(functional.hardswish(self.stem(batch))))


class Calls(nn.Module):
    """A function, and the layers it uses."""

    def __init__(self, function, **layers):
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.function = function

    def forward(self, x):
        return self.function(x, **self.layers)


def linear():
    return nn.Linear(WIDTH, CLASSES)


def gated(x, fc):
    return fc((x * torch.sigmoid(2 - x)).mean((-1, -2)))


def shifted(x, fc):
    return 0.5 * fc((x + 1).mean((2, 3), keepdim=True).squeeze(3).squeeze(2)) - torch.ones(1, CLASSES)


def written_over(x, fc):
    x = x.clone()
    x.mul_(2.0).relu_()
    pooled = functional.adaptive_avg_pool2d(x, 1).flatten(1)
    pooled -= 0.25
    return fc(pooled)


POOLED = {
    "linear": lambda: nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear()),
    "in-place": lambda: nn.Sequential(
        nn.ReLU6(inplace=True), nn.AvgPool2d((3, 4)), nn.Flatten(), nn.Dropout(), linear()
    ),
    "classes-first": lambda: nn.Sequential(
        nn.Dropout(), nn.Conv2d(WIDTH, CLASSES, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
    "two-layers-and-norms": lambda: nn.Sequential(
        nn.BatchNorm2d(WIDTH), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(WIDTH),
        nn.Conv2d(WIDTH, 9, 1), nn.Flatten(), nn.BatchNorm1d(9), nn.Linear(9, CLASSES, bias=False),
    ),
    "mixed": lambda: nn.Sequential(
        nn.Conv2d(WIDTH, 10, 1, bias=False), nn.GELU(), nn.Conv2d(10, 8, 1, groups=2), nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, CLASSES, 1), nn.Flatten(),
    ),
    "gated": lambda: Calls(gated, fc=linear()),
    "shifted": lambda: Calls(shifted, fc=linear()),
    "written-over": lambda: Calls(written_over, fc=linear()),
    "probabilities": lambda: nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(), nn.Softmax(dim=1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", POOLED)
def test_each_cell_holds_the_logits_of_a_map_that_is_that_cell(name):
    net = build_net(lambda: Net(POOLED[name]()), seed=1)
    engine = load_module(net, target="body", size=(12, 16), batch_size=2)
    batch = random_images(3)
    classes = np.array([[1, 4], [0, 2], [3, 3]])
    found = engine.explain(batch, "cam", targets=classes, size="map")
    last = net.head[-1] if isinstance(net.head, nn.Sequential) else None
    if isinstance(last, nn.Softmax):
        net.head[-1] = nn.Identity()
    expected = np.empty((3, 2, 3, 4))
    for i in range(3):
        for j in range(4):

            def everywhere(maps, i=i, j=j):
                return maps[:, :, i : i + 1, j : j + 1].expand_as(maps).contiguous()

            logits = altered_logits(net, "body", batch, everywhere)
            expected[:, :, i, j] = np.take_along_axis(logits, classes, axis=1)
    assert_close(found.raw, expected, np.float32, factor=FACTOR)
    assert_close(found.raw.mean(axis=(2, 3)), found.scores, factor=FACTOR)
    assert found.passes.head == 3 * engine.head.class_map_passes()[0]
    assert np.isfinite(found.maps).all()


def written_through_a_view(x, fc):
    cells = x.clone()
    cells.view(-1).mul_(torch.arange(cells.numel()))
    return fc(cells.mean((2, 3)))


def placed(x, fc):
    return fc((x + torch.arange(4.0)).mean((2, 3)))


def half(x, fc):
    return fc(x[:, :, :2].mean((2, 3)))


def over_channels(x, fc):
    return fc(torch.softmax(x, dim=1).flatten(2).mean(2))


POOLED_NOT = {
    "max": lambda: nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), linear()),
    "flattened": lambda: nn.Sequential(nn.Flatten(), nn.Linear(WIDTH * 12, CLASSES)),
    "hidden-layer": lambda: nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 9), nn.ReLU(), nn.Linear(9, CLASSES)
    ),
    "layer-norm": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(WIDTH), linear()),
    "spatial": lambda: nn.Sequential(
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear()
    ),
    "squares": lambda: Calls(lambda x, fc: fc(x.mean((2, 3)) ** 2), fc=linear()),
    "own-product": lambda: Calls(lambda x, fc: fc(x.mean((2, 3)) * x.mean((2, 3))), fc=linear()),
    "divided-by": lambda: Calls(lambda x, fc: fc(1 / (5 + x.mean((2, 3)))), fc=linear()),
    "attended": lambda: Calls(lambda x, fc: fc((x * x.mean((2, 3), keepdim=True)).mean((2, 3))), fc=linear()),
    "written-through-a-view": lambda: Calls(written_through_a_view, fc=linear()),
    "placed": lambda: Calls(placed, fc=linear()),
    "half": lambda: Calls(half, fc=linear()),
    "over-channels": lambda: Calls(over_channels, fc=linear()),
    "rows-then-columns": lambda: Calls(lambda x, fc: fc(x.mean(2).amax(2)), fc=linear()),
    "batch-statistics": lambda: Calls(
        lambda x, fc: fc(functional.batch_norm(x, None, None, training=True).relu().mean((2, 3))), fc=linear()
    ),
}


@pytest.mark.parametrize("name", POOLED_NOT)
def test_other_heads_have_none(name):
    engine = load_module(build_net(lambda: Net(POOLED_NOT[name]())), target="body", size=(12, 16))
    with pytest.raises(MethodError, match="linear layer behind global pooling"):
        engine.explain(random_images(), "cam")
    assert engine.describe()


def test_a_border_around_the_cells_is_left_out_as_it_is_of_a_file(tmp_path):
    """SqueezeNet's 1×1 convolution has a padding of one."""
    pytest.importorskip("onnxscript")
    head = nn.Sequential(
        nn.Conv2d(WIDTH, CLASSES, 1, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    net = build_net(lambda: Net(head), seed=1)
    path = camrt.to_onnx(net, torch.from_numpy(random_images()), tmp_path / "net.onnx")
    module = load_module(net, target="body", size=(12, 16))
    file = camrt.load(path, threads=1)
    assert file.target.shape == module.target.shape
    found, expected = (one.explain(random_images(), "cam", targets=1) for one in (module, file))
    assert_close(found.raw, expected.raw, factor=FACTOR)


def test_a_head_that_changed_since_is_refused():
    net = build_net(lambda: Net(POOLED["linear"]()))
    engine = load_module(net, target="body", size=(12, 16))
    engine.explain(random_images(), "cam")
    net.head[1] = nn.AdaptiveMaxPool2d(1)
    with pytest.raises(BackendError, match="not any more: load it again"):
        engine.explain(random_images(), "cam")
