"""Score-CAM under a budget of passes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import camrt
from camrt.engine.methods import make_method
from camrt.engine.methods.mask_clusters import cluster_channels
from camrt.engine.passes import PassCounts
from camrt.errors import MethodError
from helpers.oracles.classifiers import HEADS, classifier
from helpers.oracles.score import mask, weights
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]
FACTOR = 6


def scaled(activation: np.ndarray) -> np.ndarray:
    """Each channel of (K, h, w) from 0 to 1."""
    low, high = activation.min(axis=(1, 2), keepdims=True), activation.max(axis=(1, 2), keepdims=True)
    return (activation - low) / np.where(high > low, high - low, 1)


def groups(activation: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Each channel's cluster, and the clusters' means; channels count by the square of their range."""
    masks = scaled(activation.astype(np.float64)).reshape(len(activation), -1)
    alive = [k for k, one in enumerate(masks) if one.max() > one.min()]
    weight = (activation.max(axis=(1, 2)) - activation.min(axis=(1, 2))).astype(np.float64) ** 2
    centres = [masks[max(alive, key=lambda k: weight[k])]]
    while len(centres) < count:
        away = {k: weight[k] * min(((masks[k] - c) ** 2).sum() for c in centres) for k in alive}
        centres.append(masks[max(alive, key=lambda k: away[k])])
    for _ in range(10):
        members = np.array(
            [min(range(count), key=lambda p: ((one - centres[p]) ** 2).sum()) for one in masks]
        )
        for p in range(count):
            held = [k for k in alive if members[k] == p]
            if held:
                centres[p] = np.average(masks[held], axis=0, weights=weight[held])
    return members, np.array(centres).reshape(count, *activation.shape[1:])


@pytest.mark.parametrize("definition", ["paper", "grad-cam", "torchcam"])
@pytest.mark.parametrize("head", HEADS)
def test_against_the_oracle(engine_of: EngineOf, head: str, definition: str) -> None:
    small = classifier(head, cells=(3, 5), channels=9, scale=0.5, trunk="convolve")
    images = np.random.default_rng(2).normal(size=(3, *small.image)).astype(np.float32)
    engine = engine_of(small, batch_size=4)
    found = engine.explain(images, "score", targets=[[0, 3]] * 3, definition=definition, passes=4)
    scores = small.scores_of_image("probability" if definition == "paper" else "logit")
    for i, image in enumerate(images):
        activation = small.activation(image)
        members, means = groups(activation, 4)
        for t, target in enumerate((0, 3)):
            clusters = [
                float(scores(image * mask(mean, image.shape[1:], definition))[target]) for mean in means
            ]
            seen = np.array(clusters)[members]
            if definition == "paper":
                alpha = seen - float(scores(0 * image)[target])
            else:
                alpha = np.exp(seen - seen.max())
                alpha /= alpha.sum()
            alpha[activation.max(axis=(1, 2)) == activation.min(axis=(1, 2))] = 0
            expected = np.einsum("k,kij->ij", alpha, activation)
            if (
                definition == "paper" or activation.max(axis=(1, 2)).all()
            ):  # no constant channel in the softmax
                assert_close(found.raw[i, t], expected, factor=FACTOR)
    assert found.passes.full <= 3 * 4 + 1
    assert make_method("score", {"passes": 4}).cost(engine.head, engine.map_shape).full == 5


@pytest.mark.parametrize("definition", ["paper", "torchcam"])
def test_as_many_passes_as_channels_are_exact(engine_of: EngineOf, definition: str) -> None:
    small = classifier("pooled-network", cells=(3, 5), channels=5, trunk="convolve")
    images = np.random.default_rng(3).normal(size=(2, *small.image)).astype(np.float32)
    engine = engine_of(small)
    full = engine.explain(images, "score", definition=definition)
    for passes in (5, 99):
        found = engine.explain(images, "score", definition=definition, passes=passes)
        assert np.array_equal(found.raw, full.raw)
        assert found.passes == full.passes


def test_alike_masks_share_a_pass(engine_of: EngineOf) -> None:
    """Channels that are copies of three, in other scales: three passes are as good as twelve."""
    small = classifier("pooled-network", channels=12, cells=(3, 5), trunk="keep", scale=0.5)
    draw = np.random.default_rng(4)
    three = draw.normal(size=(2, 3, 3, 5))
    images = (three.repeat(4, axis=1) * draw.uniform(1, 2, (2, 12, 1, 1))).astype(np.float32)
    full = engine_of(small).explain(images, "score", targets=1)
    found = engine_of(small).explain(images, "score", targets=1, passes=3)
    assert_close(found.raw, full.raw, factor=4)
    assert found.passes == PassCounts(trunk=2, full=2 * 3 + 1)


def test_constant_channels_take_no_part(engine_of: EngineOf) -> None:
    small = classifier("pooled-network", channels=6, cells=(3, 5), trunk="keep", scale=0.5)
    images = np.random.default_rng(5).normal(size=(1, 6, 3, 5)).astype(np.float32)
    images[0, [1, 4]] = 0.25
    full = engine_of(small).explain(images, "score", targets=1)
    found = engine_of(small).explain(images, "score", targets=1, passes=4)
    assert_close(found.raw, full.raw, factor=4)
    more = engine_of(small).explain(images, "score", targets=1, passes=5)
    assert more.passes.full == 4 + 1
    assert_close(more.raw, full.raw, factor=4)
    nothing = engine_of(small).explain(np.full((1, 6, 3, 5), 0.5, np.float32), "score", passes=2)
    assert nothing.flags.tolist() == [1]


def test_clusters_are_those_of_an_image_alone() -> None:
    activations = np.random.default_rng(6).random((5, 20, 4, 3)).astype(np.float32)
    members, means = cluster_channels(activations, 7)
    assert members.shape == (5, 20)
    assert means.shape == (5, 7, 4, 3)
    for i in range(5):
        alone, mean = cluster_channels(activations[i : i + 1], 7)
        assert np.array_equal(alone[0], members[i])
        expected, centres = groups(activations[i], 7)
        assert np.array_equal(members[i], expected)
        assert_close(mean[0], means[i])
        assert_close(means[i], centres)
    assert set(members[0].tolist()) == set(range(7))


def test_a_map_of_many_channels_is_near_with_few_passes(engine_of: EngineOf) -> None:
    small = classifier("pooled-network", cells=(4, 5), channels=64, scale=0.2, trunk="convolve")
    images = np.random.default_rng(7).normal(size=(4, *small.image)).astype(np.float32)
    full = engine_of(small).explain(images, "score", targets=1).raw.reshape(4, -1)
    near = [
        engine_of(small).explain(images, "score", targets=1, passes=passes).raw.reshape(4, -1)
        for passes in (8, 32)
    ]
    r = [np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(full, one, strict=True)]) for one in near]
    assert r[1] > 0.9
    assert r[1] > r[0]


@pytest.mark.parametrize("passes", [0, -3, 2.5, True, "64"])
def test_wrong_budgets_are_refused(passes: object) -> None:
    with pytest.raises(MethodError, match=r"score: passes=.* must be a whole number >= 1"):
        make_method("score", {"passes": passes})


def test_the_oracle_s_weights_are_those_of_single_channels() -> None:
    """A cluster of one channel is scored as Score-CAM scores it."""
    small = classifier("pooled-linear", cells=(3, 4), trunk="convolve")
    image = np.random.default_rng(8).normal(size=small.image)
    activation = small.activation(image)
    scores = small.scores_of_image("probability")
    expected = weights(scores, image, activation, 1, "paper")
    alone = [float(scores(image * mask(one, image.shape[1:], "paper"))[1]) for one in scaled(activation)]
    assert_close(np.array(alone) - float(scores(0 * image)[1]), expected)
