"""SS-CAM and IS-CAM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import camrt
from camrt.engine.methods import make_method
from camrt.engine.passes import PassCounts
from camrt.errors import MethodError
from helpers.oracles.classifiers import HEADS, classifier
from helpers.oracles.score import mask
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]
FACTOR = 8


def altered(
    method: str, x: np.ndarray, m: np.ndarray, draws: int, noise: float, seed: int
) -> list[np.ndarray]:
    """What the network is shown of an image (C, H, W) under a mask."""
    if method == "sscam":
        return [
            x * (m + noise * np.random.default_rng([seed, i]).standard_normal(m.shape, np.float32))
            for i in range(draws)
        ]
    return [sum(p / draws for p in range(1, i + 1)) * x * m for i in range(1, draws + 1)]


def expected_map(
    method: str, definition: str, small: Any, x: np.ndarray, target: int, draws: int, noise: float, seed: int
) -> np.ndarray:
    scores = small.scores_of_image("probability" if definition == "paper" else "logit")
    activation = small.activation(x)
    means = []
    for channel in activation:
        seen = altered(method, x, mask(channel, x.shape[1:], definition), draws, noise, seed)
        means.append(np.mean([float(scores(one)[target]) for one in seen]))
    empty = float(scores(0 * x)[target])
    constant = activation.max(axis=(1, 2)) == activation.min(axis=(1, 2))
    means = np.where(constant, empty, means)
    if definition == "paper":
        alpha = means - empty
    else:
        alpha = np.exp(means - means.max())
        alpha /= alpha.sum()
    return np.einsum("k,kij->ij", np.where(constant, 0, alpha), activation)


@pytest.mark.parametrize("definition", ["paper", "torchcam"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("method", ["sscam", "iscam"])
def test_against_the_oracle(engine_of: EngineOf, method: str, head: str, definition: str) -> None:
    small = classifier(head, cells=(3, 5), scale=0.5, trunk="convolve")
    images = np.random.default_rng(51).normal(size=(2, *small.image)).astype(np.float32)
    options: dict[str, Any] = {"draws": 3, **({"noise": 0.7, "seed": 2} if method == "sscam" else {})}
    engine = engine_of(small, batch_size=4)
    found = engine.explain(images, method, targets=[[0, 3], [1, 2]], definition=definition, **options)
    raw = [
        [expected_map(method, definition, small, x, c, 3, 0.7, 2) for c in row]
        for x, row in zip(images, found.targets, strict=True)
    ]
    for one, expected in zip(found.raw.reshape(-1, 3, 5), np.reshape(raw, (-1, 3, 5)), strict=True):
        assert_close(one, expected, factor=FACTOR)
    constant = sum(int((small.activation(x).max(axis=(1, 2)) == 0).sum()) for x in images)
    assert found.passes == PassCounts(trunk=2, full=3 * (2 * 3 - constant) + 1)
    assert make_method(method, {"draws": 3}).cost(engine.head, engine.map_shape).full == 3 * 3 + 1


def test_a_budget_is_shared_out_over_the_draws(engine_of: EngineOf) -> None:
    small = classifier("pooled-network", cells=(3, 5), channels=8, trunk="keep")
    images = np.random.default_rng(52).normal(size=(2, *small.image)).astype(np.float32)
    found = engine_of(small).explain(images, "iscam", draws=5, passes=17)
    assert found.passes.full == 2 * 3 * 5 + 1
    full = engine_of(small).explain(images, "iscam", draws=5)
    assert np.array_equal(engine_of(small).explain(images, "iscam", draws=5, passes=40).raw, full.raw)


def test_without_noise_it_is_score_cam(engine_of: EngineOf) -> None:
    small = classifier("pooled-network", cells=(3, 5), trunk="convolve")
    images = np.random.default_rng(53).normal(size=(2, *small.image)).astype(np.float32)
    plain = engine_of(small).explain(images, "score")
    assert_close(engine_of(small).explain(images, "sscam", draws=2, noise=0).raw, plain.raw)
    assert_close(engine_of(small).explain(images, "iscam", draws=1).raw, plain.raw)


WRONG = [
    ("sscam", {"draws": 0}, "sscam: draws=0 must be a whole number >= 1"),
    ("sscam", {"noise": -1}, "sscam: noise=-1 must be a number >= 0"),
    ("sscam", {"definition": "grad-cam"}, "choose from 'paper', 'torchcam'"),
    ("iscam", {"passes": 9}, "iscam: passes=9 must be a whole number >= 10"),
]


@pytest.mark.parametrize(("name", "options", "text"), WRONG, ids=str)
def test_wrong_options_are_refused(name: str, options: dict[str, object], text: str) -> None:
    with pytest.raises(MethodError, match=text):
        make_method(name, options)
