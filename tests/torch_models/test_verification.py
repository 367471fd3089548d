"""Modules whose answers are compared with their heads' while they are loaded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import camrt
from camrt.engine.torch_models import heads
from camrt.errors import InputError, UnsupportedModelError
from helpers.tolerances import assert_close

IMAGES = np.random.default_rng(0).standard_normal((4, 3, 12, 10), np.float32)


class Pooled(nn.Module):
    """A convolution, a mean and a linear layer, with something done to the pooled vectors."""

    def __init__(self, twist=None):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(6, 4)
        self.twist = twist

    def forward(self, x):
        vector = self.pool(self.features(x)).flatten(1)
        return self.linear(vector if self.twist is None else self.twist(vector))


def centred(vector):
    return vector - vector.mean(0, keepdim=True)


def counted(vector):
    return vector + torch.arange(len(vector))[:, None]


def drawn(vector):
    return vector + torch.rand_like(vector)


def drawn_once(vector):
    """The same numbers for all images of a call."""
    return vector + torch.rand(1, vector.shape[1])


def dropped(vector):
    return nn.functional.dropout(vector, 0.5, training=True)


def load(module, **options):
    return camrt.load(module.eval(), size=(12, 10), target="features", **options)


def test_a_module_that_agrees():
    engine = load(Pooled())
    assert engine.notes == ()
    assert {"logits", "boxes", "removed channels"} <= {one.question for one in engine.verification}
    assert all(one.agrees for one in engine.verification)
    assert load(Pooled(), verify=False).verification == ()


@pytest.mark.parametrize("twist", [drawn, drawn_once, dropped])
def test_a_module_that_draws_is_refused(twist):
    """Another call may draw other numbers. Whoever loads a module keeps the state of their generator."""
    with pytest.raises(UnsupportedModelError, match=r"differently each time .* draws random numbers"):
        load(Pooled(twist))
    assert load(Pooled(twist), verify=False).num_classes == 4
    module = Pooled(centred)
    before = torch.get_rng_state()
    load(module)
    assert torch.equal(torch.get_rng_state(), before)


def test_numbers_drawn_in_vain_are_no_reason():
    def in_vain(vector):
        torch.rand(3)
        return vector

    assert load(Pooled(in_vain)).notes == ()


@pytest.mark.parametrize("twist", [centred, counted])
def test_images_that_are_answered_otherwise_among_others_are_run_alone(twist):
    module = Pooled(twist).eval()
    engine = load(module)
    assert any("one at a time" in note for note in engine.notes)
    assert engine.batch_size == 1
    for method in ("pixab", "ablation", "gradcam"):
        together = engine.explain(IMAGES, method, targets=1).raw
        alone = np.concatenate([engine.explain(one[None], method, targets=1).raw for one in IMAGES])
        assert_close(together, alone, factor=20)


def test_altered_activations_are_run_alone_as_well():
    """Of one row the number is 0: alone, the module is the one that counts nothing."""
    counting, plain = load(Pooled(counted)), load(Pooled())
    for method in ("pixab", "ablation"):
        mine, theirs = (one.explain(IMAGES, method, targets=1).raw for one in (counting, plain))
        assert_close(mine, theirs, factor=20)


def test_a_shortcut_that_disagrees_is_not_used(monkeypatch):
    right = load(Pooled())
    assert type(right.head) is heads.LinearHead
    own = heads.LinearHead.scores_without_channels
    monkeypatch.setattr(
        heads.LinearHead, "scores_without_channels", lambda self, asked: own(self, asked) * 1.2
    )
    engine = load(Pooled())
    assert type(engine.head) is heads.HookedHead
    assert any("removed channels" in note for note in engine.notes)


def test_a_wrong_level_is_refused():
    with pytest.raises(InputError, match="verify='much' must be"):
        load(Pooled(), verify="much")
