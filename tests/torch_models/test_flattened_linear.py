"""A linear layer on the flattened activation is found in a module; what follows it is run, or nothing."""

from __future__ import annotations

import numpy as np
import pytest

from camrt.engine.torch_models import load
from camrt.engine.torch_models.heads import FlattenedHead, HookedHead
from camrt.engine.torch_models.load import load_module
from helpers.tolerances import assert_close
from helpers.torch_nets import CLASSES, functional, nn, random_images, torch

METHODS = [
    ("pixab", {}),
    ("pixab", {"score": "logit"}),
    ("ablation", {}),
    ("ablation", {"score": "probability"}),
    ("gradcam", {}),
    ("layercam", {"score": "probability"}),
]
# Differences of two scores, each of several layers in float32, divided by one that may be small.
FACTOR = 256


class Network(nn.Module):
    """A stem that gives (N, 6, 3, 4), and fully connected layers."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, 4, 1), nn.ReLU(inplace=True))
        self.pool = nn.AdaptiveAvgPool2d((3, 4))
        layers = [
            nn.Linear(72, 11),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(11, 9),
            nn.ReLU(inplace=True),
        ]
        self.classifier = nn.Sequential(*layers, nn.Linear(9, CLASSES))

    def forward(self, batch):
        return self.read(self.features(batch))

    def read(self, x):
        return self.classifier(torch.flatten(self.pool(x), 1))


class One(Network):
    """One layer, and a softmax."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(72, CLASSES))

    def read(self, x):
        return functional.softmax(self.classifier(x.flatten(1)), dim=1)


class NoBias(Network):
    def __init__(self):
        super().__init__()
        self.classifier[0] = nn.Linear(72, 11, bias=False)


class Around(Network):
    """The mean goes around the layer."""

    def read(self, x):
        return super().read(x) + x.mean((1, 2, 3))[:, None]


class Twice(Network):
    """The layer is called twice."""

    def read(self, x):
        rows = torch.flatten(self.pool(x), 1)
        return self.classifier(rows + self.classifier[0](rows).mean(dim=1, keepdim=True))


class Scaled(Network):
    """The layer reads other numbers."""

    def read(self, x):
        return self.classifier(2 * torch.flatten(self.pool(x), 1))


def made(kind, seed=0):
    torch.manual_seed(seed)
    net = kind().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2.0)  # so that logits differ
    return net


def both(net, monkeypatch, **options):
    engine = load_module(net, target="features", size=(12, 16), **options)
    with monkeypatch.context() as patch:
        patch.setattr(load, "find_flattened_linear", lambda *_: None)
        patch.setattr(load, "find_pooled_linear", lambda *_: None)
        hooked = load_module(net, target="features", size=(12, 16), **options)
    assert type(hooked.head) is HookedHead
    return engine, hooked


@pytest.mark.parametrize("batch_size", [2, 32])
@pytest.mark.parametrize("kind", [Network, One, NoBias], ids=lambda kind: kind.__name__)
def test_what_follows_the_layer_gives_what_hooks_give(kind, batch_size, monkeypatch):
    engine, hooked = both(made(kind), monkeypatch, batch_size=batch_size)
    assert isinstance(engine.head, FlattenedHead)
    last = kind is One
    assert engine.head._flattened.gives_logits == last
    assert engine.head._flattened.path == ("classifier.1" if last else "classifier.0")
    assert engine.head._flattened.path in engine.head.describe()
    batch, targets = random_images(), np.array([[0, 3], [4, 1], [2, 2]])
    for method, options in METHODS:
        found = engine.explain(batch, method, targets=targets, **options)
        expected = hooked.explain(batch, method, targets=targets, **options)
        assert_close(found.raw, expected.raw, np.float32, factor=FACTOR)
        assert_close(found.scores, expected.scores, np.float32, factor=16)
        assert found.passes.head <= expected.passes.head
        if last:
            assert (found.passes.head, found.passes.head_adjoint) == (0, 0)
    costs = (engine.head.box_passes(9)[0], engine.head.channel_passes(9)[0], engine.head.gradient_passes()[0])
    assert costs == ((0, 0, 0) if last else (18, 9, 1))


def test_images_of_another_size_are_answered_by_hooks(monkeypatch):
    engine, hooked = both(made(Network), monkeypatch)
    batch = random_images(height=24, width=16)
    for method in ("pixab", "ablation"):
        found, expected = (one.explain(batch, method, targets=1) for one in (engine, hooked))
        np.testing.assert_array_equal(found.raw, expected.raw)
        assert found.passes == expected.passes


def test_what_is_explained_are_the_parameters_of_that_moment():
    net = made(Network)
    engine = load_module(net, target="features", size=(12, 16))
    before = engine.explain(random_images(), "pixab", targets=1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    net(torch.from_numpy(random_images()))[:, 1].sum().backward()
    optimizer.step()
    after = engine.explain(random_images(), "pixab", targets=1)
    fresh = load_module(net, target="features", size=(12, 16)).explain(random_images(), "pixab", targets=1)
    assert not np.allclose(after.raw, before.raw)
    np.testing.assert_array_equal(after.raw, fresh.raw)


@pytest.mark.parametrize("kind", [Around, Twice, Scaled], ids=lambda kind: kind.__name__)
def test_what_is_not_such_a_layer_is_run(kind):
    engine = load_module(made(kind), target="features", size=(12, 16))
    assert type(engine.head) is HookedHead


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_modules_of_other_types(kind, monkeypatch):
    """Differences of the first layer's answers are computed in float32, and then rounded once."""
    engine, _ = both(made(Network).to(kind), monkeypatch)
    _, exact = both(made(Network).double(), monkeypatch)
    assert isinstance(engine.head, FlattenedHead)
    found = engine.explain(random_images(), "pixab", targets=2)
    expected = exact.explain(random_images(), "pixab", targets=2)
    name = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float64: "float32"}[kind]
    # differences of probabilities, rounded as logits are, divided by them
    assert_close(found.raw, expected.raw, name, factor=FACTOR if name == "float32" else 16)


def test_nothing_of_the_module_has_changed():
    net = made(Network).train()
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in net.modules()]
    engine = load_module(net, target="features", size=(12, 16))
    engine.explain(random_images(), "pixab")
    assert [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in net.modules()] == hooks
    assert all(part.training for part in net.modules())
