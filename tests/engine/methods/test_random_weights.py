from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import camrt
from camrt.engine.passes import PassCounts
from helpers.oracles.classifiers import HEADS, classifier
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]


def images_of(shape: tuple[int, ...], count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


@pytest.mark.parametrize("head", HEADS)
def test_against_the_definition(engine_of: EngineOf, head: str) -> None:
    small = classifier(head, cells=(4, 5), channels=6, trunk="convolve")
    images = images_of(small.image)
    found = engine_of(small).explain(images, "random", seed=7, targets=[[2, 0]] * 5)
    weights = np.random.default_rng([7, 0]).uniform(-1, 1, 6)
    for image, maps in zip(images, found.raw, strict=True):
        expected = sum(w * channel for w, channel in zip(weights, small.activation(image), strict=True))
        assert_close(maps, [expected] * 2, factor=2)
    assert found.passes == PassCounts(trunk=5)


def test_the_draw_depends_on_the_seed_alone(engine_of: EngineOf) -> None:
    small = classifier("pooled-linear", trunk="convolve")
    images = images_of(small.image)
    together = engine_of(small).explain(images, "random").raw
    by_two = engine_of(small, batch_size=2).explain(images, "random").raw
    assert np.array_equal(by_two, together)
    assert np.array_equal(engine_of(small).explain(images[3:4], "random").raw, together[3:4])
    assert not np.array_equal(engine_of(small).explain(images, "random", seed=1).raw, together)


def test_weights_are_drawn_evenly_between_minus_one_and_one(engine_of: EngineOf) -> None:
    small = classifier("pooled-linear", channels=2000, cells=(1, 2))
    weights, _ = engine_of(small).channel_weights(images_of(small.image, 1), "random")
    assert -1 <= weights.min() < -0.99
    assert 0.99 < weights.max() < 1
    assert abs(weights.mean()) < 0.05
    assert abs(weights.std() - 3**-0.5) < 0.02
