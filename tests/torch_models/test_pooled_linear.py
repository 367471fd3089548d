"""A linear layer behind global pooling is found in a module, and its algebra answers what hooks answer."""

from __future__ import annotations

import numpy as np
import pytest

from camrt.engine.torch_models import load
from camrt.engine.torch_models.heads import HookedHead, LinearHead
from camrt.engine.torch_models.load import load_module
from helpers.tolerances import assert_close
from helpers.torch_nets import CLASSES, Modular, build_net, functional, nn, random_images, torch

METHODS = [
    ("pixab", {}),
    ("pixab", {"score": "logit"}),
    ("ablation", {}),
    ("ablation", {"score": "probability"}),
    ("gradcam", {}),
    ("gradcam++", {"score": "probability"}),
    ("layercam", {}),
    ("cam", {}),
]
# Differences of two scores, each of several layers in float32, divided by one that may be small.
FACTOR = 256


class Pooled(nn.Module):
    """A stem, and what is done to its map."""

    def __init__(self, **layers):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.last = nn.Conv2d(6, 7, 3, 1, 1)
        self.named = nn.ModuleDict(layers)

    def forward(self, batch):
        return self.read(functional.relu(self.last(functional.relu(self.stem(batch)))))

    def read(self, x):
        return self.named["fc"](x.mean((2, 3)))


class Convolved(Pooled):
    def read(self, x):
        return self.named["fc"](functional.adaptive_avg_pool2d(x, 1)).flatten(1)


class Scaled(Pooled):
    def read(self, x):
        return 0.5 * self.named["fc"](x.mean((2, 3)))


class Summed(Pooled):
    def read(self, x):
        return self.named["fc"](x.sum((2, 3)))


class Bordered(Pooled):
    def read(self, x):
        return self.named["fc"](functional.pad(x, (1, 1, 1, 1)).mean((2, 3)))


class Bent(Pooled):
    def read(self, x):
        return self.named["fc"](functional.hardswish(x).mean((2, 3)))


def linear(**options):
    return nn.Linear(7, CLASSES, **options)


def nets():
    return {
        "pooled": (Modular().eval(), "relu", "head.weight", "head.bias"),
        "a 1x1 convolution": (
            with_relu(Convolved(fc=nn.Conv2d(7, CLASSES, 1))),
            "rectified",
            "named.fc.weight",
            "named.fc.bias",
        ),
        "no bias": (with_relu(Pooled(fc=linear(bias=False))), "rectified", "named.fc.weight", None),
        "dropout": (
            with_relu(Pooled(fc=nn.Sequential(nn.Dropout(0.5), linear()))),
            "rectified",
            "named.fc.1.weight",
            "named.fc.1.bias",
        ),
    }


def with_relu(net):
    """The same with the last ReLU a module, which can be named."""
    net.rectified = nn.ReLU()
    net.forward = lambda batch: net.read(net.rectified(net.last(functional.relu(net.stem(batch)))))
    return net.eval()


@pytest.mark.parametrize("name", nets())
def test_algebra_gives_what_hooks_give(name, monkeypatch):
    torch.manual_seed(0)
    net, path, weight, bias = nets()[name]
    engine = load_module(net, target=path, size=(12, 16))
    assert isinstance(engine.head, LinearHead)
    assert (engine.head._linear.weight, engine.head._linear.bias) == (weight, bias)
    assert weight in engine.head.describe()
    monkeypatch.setattr(load, "find_pooled_linear", lambda *_: None)
    hooked = load_module(net, target=path, size=(12, 16))
    assert type(hooked.head) is HookedHead
    batch, targets = random_images(), np.array([[0, 3], [4, 1], [2, 2]])
    for method, options in METHODS:
        found = engine.explain(batch, method, targets=targets, **options)
        expected = hooked.explain(batch, method, targets=targets, **options)
        assert_close(found.raw, expected.raw, np.float32, factor=FACTOR)
        assert_close(found.scores, expected.scores, np.float32, factor=16)
        assert (found.passes.head, found.passes.full, found.passes.head_adjoint) == (0, 0, 0)
        assert expected.passes.head + expected.passes.head_adjoint > 0
    assert engine.head.box_passes(9)[0] == engine.head.channel_passes(9)[0] == 0
    assert engine.head.class_map_passes()[0] == engine.head.gradient_passes()[0] == 0


@pytest.mark.parametrize("change", ["in place", "by its data", "loaded", "trained"])
def test_what_is_explained_are_the_parameters_of_that_moment(change):
    net = build_net(Modular)
    engine = load_module(net, target="relu", size=(12, 16))
    before = engine.explain(random_images(), "pixab", targets=1)
    with torch.no_grad():
        if change == "in place":
            net.head.weight.mul_(-1.5)
            net.head.bias.add_(0.5)
        elif change == "by its data":
            net.head.weight.data = net.head.weight.data.flip(0)
        elif change == "loaded":
            net.load_state_dict(Modular().state_dict())
    if change == "trained":
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        net(torch.from_numpy(random_images()))[:, 1].sum().backward()
        optimizer.step()
    after = engine.explain(random_images(), "pixab", targets=1)
    fresh = load_module(net, target="relu", size=(12, 16)).explain(random_images(), "pixab", targets=1)
    assert not np.allclose(after.raw, before.raw)
    np.testing.assert_array_equal(after.raw, fresh.raw)


class Moody(Pooled):
    def read(self, x):
        return self.named["fc"](x.amax((2, 3)) if x.any() else x.mean((2, 3)))


@pytest.mark.parametrize("kind", [Moody, Scaled, Summed, Bordered, Bent], ids=lambda kind: kind.__name__)
def test_what_is_not_such_a_layer_is_run(kind):
    torch.manual_seed(0)
    engine = load_module(with_relu(kind(fc=linear())), target="rectified", size=(12, 16))
    assert type(engine.head) is HookedHead


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_modules_of_other_types(kind):
    """What a box takes away is computed in float32, from what the module rounded."""
    net = build_net(Modular)
    with torch.no_grad():
        net.last.weight.mul_(20.0)  # so that logits are more than their bias, rounded
    net = net.to(kind)
    engine = load_module(net, target="relu", size=(12, 16))
    assert isinstance(engine.head, LinearHead)
    assert engine.head._linear.half_dtype == (None if kind == torch.float64 else kind)
    batch = random_images()
    found = engine.explain(batch, "pixab", targets=2, score="logit", boxes=((1, 1),), perspectives="deletion")
    seen = []
    handle = net.relu.register_forward_hook(lambda _, __, output: seen.append(output.detach().double()))
    with torch.no_grad():
        net(torch.from_numpy(batch).to(kind))
    handle.remove()
    weight = net.head.weight.detach().double()[2]
    falls = torch.einsum("k,nkij->nij", weight, seen[-1]) / seen[-1][0, 0].numel()
    empty = float(net.head.bias[2].detach())
    whole = np.abs(found.scores - empty)[:, None, None]
    assert_close(found.raw * whole, falls.numpy(), np.float32, factor=64)


@pytest.mark.parametrize("method", ["score", "pixab", "ablation"])
def test_a_module_in_channels_last_is_given_its_layout(method, monkeypatch):
    monkeypatch.setattr(load, "find_pooled_linear", lambda *_: None)
    plain = load_module(build_net(Modular), target="relu", size=(12, 16))
    net = build_net(Modular).to(memory_format=torch.channels_last)
    engine = load_module(net, target="relu", size=(12, 16))
    layouts = []
    net.stem.register_forward_pre_hook(lambda _, given: layouts.append(given[0]))
    found = engine.explain(random_images(), method, targets=1)
    if method == "score":
        assert all(one.is_contiguous(memory_format=torch.channels_last) for one in layouts[1:-1])
    assert engine._model.allocate_rows((2, 3, 4, 5)).is_contiguous(memory_format=torch.channels_last)
    assert engine._model.allocate_rows((2, 3)).is_contiguous()
    assert plain._model.allocate_rows((2, 3, 4, 5)).is_contiguous()
    assert_close(found.raw, plain.explain(random_images(), method, targets=1).raw, np.float32, factor=FACTOR)
