"""Scores of altered activations: the trunk left out where it may be, and never where it may not."""

from __future__ import annotations

import numpy as np
import pytest

from camrt.engine.torch_models.heads import LinearHead
from camrt.engine.torch_models.load import load_module
from helpers.tolerances import assert_close
from helpers.torch_nets import (
    CLASSES,
    Functional,
    Modular,
    Residual,
    Transformer,
    altered_logits,
    build_net,
    functional,
    nn,
    random_images,
    torch,
)


class Clamped(nn.Module):
    """What goes around the target is cut off to a number, NaN or not: only the values tell."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.body = nn.Conv2d(6, 6, 3, 1, 1)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, batch):
        x = self.stem(batch)
        gate = torch.where(x > 0.5, 1.0, 0.5)
        return self.head((functional.relu(self.body(x)) * gate).mean((2, 3)))


class Shaped(nn.Module):
    """Reads nothing but sizes off what is left out."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.body = nn.Conv2d(6, 6, 3, 2, 1)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, batch):
        x = self.stem(batch)
        y = functional.interpolate(functional.relu(self.body(x)), size=x.shape[2:])
        return self.head(y.mean((2, 3)))


class Merging(nn.Module):
    """Cells join the batch axis between modules, a tuple is passed on, and code writes into an output."""

    def __init__(self):
        super().__init__()
        self.stem = Pair()
        self.mix = nn.Linear(6, 6)
        self.body = nn.Conv2d(6, 6, 3, 1, 1)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, batch):
        x, _ = self.stem(batch)
        n, k, h, w = x.shape
        rows = self.mix(x.permute(0, 2, 3, 1).reshape(n * h, w, k))
        rows += 1.0
        x = rows.reshape(n, h, w, k).permute(0, 3, 1, 2)
        return self.head(functional.relu(self.body(x)).mean((2, 3)))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 6, 3, 2, 1)

    def forward(self, batch):
        return self.layer(batch), None


class Twice(nn.Module):
    """A block called before the target and behind it, and the target itself called three times."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3, 1, 1), nn.ReLU(inplace=True))
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, batch):
        x = self.relu(self.block(self.stem(batch)) - 0.1)
        x = self.relu(self.block(x) - 0.1)
        x = self.relu(x * 1.5 - 0.2)
        return self.head(self.block(x).mean((2, 3)))


CASES = [
    (Modular, "stem", True),
    (Modular, "stem.1", True),
    (Modular, "relu", True),
    (Modular, "last", True),
    (Functional, "first", True),
    (Functional, "second", True),
    (Residual, "stem", True),
    (Residual, "body", False),
    (Residual, "last", True),
    (Clamped, "body", False),
    (Clamped, "stem", True),
    (Shaped, "body", True),
    (Merging, "body", True),
    (Merging, "stem.layer", True),
    (Twice, "relu", True),
    (Twice, "stem", True),
    (Twice, "block.0", True),
]
IDS = [f"{kind.__name__}-{path}" for kind, path, _ in CASES]


@pytest.mark.parametrize(("kind", "path", "left_out"), CASES, ids=IDS)
def test_logits_of_altered_activations(kind, path, left_out):
    """Against the same alteration by a plain hook in float64, for channels and for boxes."""
    net = build_net(kind)
    engine = load_module(net, target=path, size=(12, 16), batch_size=4)
    assert ("left out" in engine.head.describe()) == left_out
    assert ("goes around" in engine.head.describe()) != left_out
    batch, classes = random_images(), np.array([4, 0, 2])
    rows = np.arange(3)
    plain = altered_logits(net, path, batch, lambda output: output)[rows, classes]
    channels = engine.target.shape[0]

    found = engine.explain(batch, "ablation", targets=classes, size="map")
    drops = []
    for channel in range(channels):

        def zeroed(output, channel=channel):
            output[:, channel] = 0
            return output

        drops.append(plain - altered_logits(net, path, batch, zeroed)[rows, classes])

    used = found.passes.head + found.passes.full
    assert used <= 3 * channels
    assert used == 0 if isinstance(engine.head, LinearHead) else used > 0
    assert (found.passes.full == 0) == left_out
    weights = np.array(drops).T / np.abs(plain)[:, None]
    activation = activations(net, path, batch)
    expected = np.einsum("nk,nkij->nij", weights, activation)
    # a difference of two logits, each of several layers, divided by one that may be small
    factor = 16 * max(1.0, float(np.abs(1 / plain).max()))
    assert_close(found.raw, expected, "float32", factor=factor)

    options = {"score": "logit", "boxes": ((1, 2),), "perspectives": "deletion", "denominators": "N1"}
    found = engine.explain(batch, "pixab", targets=classes, size="map", assignment="anchor", **options)

    def boxed(output):
        output[:, :, 1:2, 0:2] = 0
        return output

    there = (plain - altered_logits(net, path, batch, boxed)[rows, classes]) / np.abs(plain)
    assert_close(found.raw[:, 1, 0], there, "float32", factor=factor)


def activations(net, path, batch):
    """The last output of a module, in float64."""
    caught = []

    def catch(output):
        caught.append(output.clone())
        return output

    altered_logits(net, path, batch, catch)
    return caught[-1].numpy()


def test_tokens_in_front_stay_those_of_their_image():
    net = build_net(lambda: Transformer(prefix=2))
    with torch.no_grad():
        net.head.weight *= 4
    engine = load_module(net, target="blocks.1", size=(12, 16), batch_size=4)
    assert "left out" in engine.head.describe()
    batch, classes = random_images(), np.array([4, 0, 2])
    rows = np.arange(3)
    # a difference of two logits, each of two blocks, divided by one that may be small: the factors below
    plain = altered_logits(net, "blocks.1", batch, lambda output: output)[rows, classes]

    def boxed(output):
        output[:, 2 + 4 : 2 + 6] = 0  # row 1 of a grid of four columns
        return output

    there = (plain - altered_logits(net, "blocks.1", batch, boxed)[rows, classes]) / np.abs(plain)
    options = {"score": "logit", "boxes": ((1, 2),), "perspectives": "deletion", "denominators": "N1"}
    found = engine.explain(batch, "pixab", targets=classes, size="map", assignment="anchor", **options)
    assert_close(found.raw[:, 1, 0], there, "float32", factor=32 * float(np.abs(1 / plain).max()))
    assert found.passes.full == 0

    def emptied(output):
        output[:, 2:] = 0
        return output

    nothing = altered_logits(net, "blocks.1", batch, emptied)[rows, classes]
    options["boxes"] = ((3, 4),)
    found = engine.explain(batch, "pixab", targets=classes, size="map", assignment="anchor", **options)
    expected = (plain - nothing) / np.abs(plain)
    assert_close(found.raw[:, 0, 0], expected, "float32", factor=32 * float(np.abs(1 / plain).max()))


def test_images_of_other_sizes_than_the_one_tried():
    net = build_net(Modular)
    engine = load_module(net, target="stem", size=(12, 16))
    for height, width in ((12, 16), (20, 14), (9, 9)):
        batch = random_images(height=height, width=width)
        fresh = load_module(net, target="stem", size=(height, width))
        for method in ("pixab", "ablation", "gradcam"):
            found, expected = (one.explain(batch, method, targets=1) for one in (engine, fresh))
            np.testing.assert_array_equal(found.raw, expected.raw)
            assert found.passes == expected.passes


def test_the_trunk_is_really_left_out():
    net = build_net(Modular)
    engine = load_module(net, target="last", size=(12, 16))
    called = []
    net.body.register_forward_hook(lambda _, __, output: called.append(bool(output.isnan().all())))
    engine.explain(random_images(), "ablation")
    assert called.count(False) == 1, "only the pass over the images computes it"
    assert called.count(True) == len(called) - 1 > 0


def test_passes_are_counted_and_described():
    engine = load_module(build_net(Residual), target="body", size=(12, 16))
    costs = engine.describe()
    assert "through the whole module, since something goes around 'body'" in costs
    found = engine.explain(random_images(), "pixab")
    assert found.passes.head == 0
    assert found.passes.full > 0
    clean = load_module(build_net(Residual), target="last", size=(12, 16))
    assert "what follows 'last' (3 calls of modules up to there left out)" not in costs
    assert "what follows 'last'" in clean.describe()
    gradients = clean.explain(random_images(), "gradcam", targets=[[0, 1]] * 3)
    assert gradients.passes.head_adjoint == 6


@pytest.mark.parametrize("kind", [Modular, Functional, Residual, Transformer])
@pytest.mark.parametrize("name", ["gradcam", "ablation", "score", "gradient"])
def test_a_contrast_is_the_difference_of_its_parts(kind, name):
    """Of what is linear in the score: behind every head of a module."""
    engine, batch = load_module(build_net(kind), size=(12, 16)), random_images()
    every = engine.explain(batch, name, targets=[[0, 3, 1]] * 3, score="logit")
    found = engine.explain(batch, name, targets=0, score="logit", contrast=(3, 1), strength=0.5)
    parts = np.asarray(every.scores)
    assert_close(found.scores, parts[:, 0] - 0.25 * (parts[:, 1] + parts[:, 2]), factor=8)
    if name == "gradient":
        return  # whose magnitudes are not linear
    raw = np.asarray(every.raw)
    if name == "ablation":  # which is divided by the score
        raw = raw * np.abs(parts)[..., None, None]
    expected = raw[:, 0] - 0.25 * (raw[:, 1] + raw[:, 2])
    ours = found.raw * (np.abs(found.scores)[:, None, None] if name == "ablation" else 1)
    assert_close(ours, expected, np.float32, factor=100)
