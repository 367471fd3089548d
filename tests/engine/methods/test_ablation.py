from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import camrt
from helpers.oracles import postprocess
from helpers.oracles.ablation import ablation_cam, weights
from helpers.oracles.classifiers import HEADS, classifier, pooled_linear
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]


@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("ending", [None, "softmax", "sigmoid"], ids=["logits", "softmax", "sigmoid"])
@pytest.mark.parametrize("head", HEADS)
def test_against_the_oracle(engine_of: EngineOf, head: str, ending: str | None, score: str) -> None:
    small = classifier(head, cells=(3, 5), ending=ending, scale=1.0, trunk="convolve")
    images = np.random.default_rng(7).normal(size=(3, *small.image)).astype(np.float32)
    found = engine_of(small).explain(images, "ablation", targets=[[0, 3], [1, 2], [3, 1]], score=score)
    scores = small.scores(score)
    expected = np.array(
        [
            [ablation_cam(scores, small.activation(x), c) for c in row]
            for x, row in zip(images, found.targets, strict=True)
        ]
    )
    # α is a difference of two float32 scores over one of them: it loses what they have in common.
    assert_close(found.raw, expected, factor=4)
    whole = [scores(small.activation(x))[row] for x, row in zip(images, found.targets, strict=True)]
    assert_close(found.scores, whole, factor=2)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("channels", "cells"), [(2, (1, 2)), (5, (7, 5)), (3, (5, 1))], ids=str)
def test_odd_sizes(engine_of: EngineOf, head: str, channels: int, cells: tuple[int, int]) -> None:
    small = classifier(head, cells=cells, channels=channels, trunk="keep")
    images = np.random.default_rng(8).normal(size=(2, *small.image)).astype(np.float32)
    found = engine_of(small).explain(images, "ablation", targets=1, postprocess="library", size=(8, 11))
    raw = [ablation_cam(small.scores("logit"), small.activation(x), 1) for x in images]
    assert_close(found.raw, raw, factor=4)
    assert_close(found.maps, [postprocess.library(one, (8, 11)) for one in found.raw])


def test_vector_of_the_specification(engine_of: EngineOf) -> None:
    """The head reads the upper row only; the map lights up the lower one all the same."""
    activation = np.array([[[1, 0], [2, 0]], [[1, 0], [1, 3]]], np.float32)
    per_cell = np.array([[[[1, 2], [0, 0]], [[3, -1], [0, 0]]]], np.float64)
    small = pooled_linear(np.zeros(0), np.zeros(1), (2, 2), per_cell=per_cell)
    assert_close(weights(small.scores("logit"), activation, 0), [0.25, 0.75])
    found = engine_of(small).explain(activation[None], "ablation", targets=0, size="map")
    assert_close(found.scores, [4])
    assert_close(found.raw, [[[1, 0], [1.25, 2.25]]])
    assert_close(found.maps, [[[4 / 9, 0], [5 / 9, 1]]])
    upsampled = engine_of(small).explain(
        activation[None], "ablation", targets=0, size="map", postprocess="library"
    )
    lower = np.linalg.norm(upsampled.maps[0, 1]) / np.linalg.norm(upsampled.maps[0])
    assert abs(lower - 0.932) < 5e-4


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), bias=st.sampled_from([0.0, 3.0, -30.0]))
def test_pooled_linear_weights_are_closed_form(seed: int, bias: float) -> None:
    """α_k = W[c, k] · mean(A_k) / |Y|: with global pooling and a linear layer nothing need be run."""
    draw = np.random.default_rng(seed)
    weight, activation = draw.normal(size=(2, 4)), draw.random((4, 2, 3))
    small = pooled_linear(weight, np.array([bias, 0.0]), (2, 3))
    score = small.scores("logit")
    expected = weight[0] * activation.mean(axis=(1, 2)) / abs(score(activation)[0])
    assert_close(weights(score, activation, 0), expected, dtype=np.float64, factor=1e3)  # they cancel


@pytest.mark.parametrize("bias", [0.0, 3.0, -30.0])
def test_the_engine_has_the_closed_form(engine_of: EngineOf, bias: float) -> None:
    draw = np.random.default_rng(3)
    weight = draw.normal(size=(2, 3)).astype(np.float32)
    images = draw.random((4, 3, 2, 5)).astype(np.float32)
    small = pooled_linear(weight, np.array([bias, 0.0]), (2, 5))
    found = engine_of(small).explain(images, "ablation", targets=0)
    means = images.mean(axis=(2, 3), dtype=np.float64)
    alpha = weight[0] * means / np.abs(means @ weight[0] + bias)[:, None]
    # Against a large bias a small drop is a difference of large logits.
    assert_close(found.raw, np.einsum("nk,nkij->nij", alpha, images), factor=30 if bias == -30 else 4)
    assert found.passes == camrt.engine.explanation.PassCounts(trunk=4)


def test_a_negative_logit_turns_nothing_around(engine_of: EngineOf) -> None:
    """Channel 0 speaks for the class and channel 1 against it, whatever the sign of the logit."""
    image = np.zeros((1, 3, 1, 2), np.float32)
    image[0, 0, 0, 0] = image[0, 1, 0, 1] = 1
    weight = np.array([[2.0, -2.0, 0.0], [0.0, 0.0, 0.0]])
    for bias in (5.0, -5.0):
        engine = engine_of(pooled_linear(weight, np.array([bias, 0.0]), (1, 2)))
        found = engine.explain(image, "ablation", targets=0, size="map")
        assert np.sign(found.scores[0]) == np.sign(bias)
        assert_close(found.raw, [[[0.2, -0.2]]], factor=4)
        assert_close(found.maps, [[[1, 0]]])


def test_a_logit_of_zero_is_not_divided_by(engine_of: EngineOf) -> None:
    image = np.zeros((1, 3, 1, 2), np.float32)
    image[0, 0, 0, 0] = image[0, 1, 0, 1] = 1
    engine = engine_of(pooled_linear(np.array([[2.0, -2.0, 0.0]]), np.zeros(1), (1, 2)))
    found = engine.explain(image, "ablation", targets=0, size="map")
    assert_close(found.raw, [[[1e8, -1e8]]])
    assert_close(found.maps, [[[1, 0]]])


@pytest.mark.parametrize("head", HEADS)
def test_silent_channels_cost_nothing(engine_of: EngineOf, head: str) -> None:
    small = classifier(head, channels=4, cells=(2, 5))
    images = np.random.default_rng(9).random((2, 4, 2, 5)).astype(np.float32)
    images[0, 1:3] = 0
    engine = engine_of(small)
    found = engine.explain(images, "ablation", targets=0)
    raw = [ablation_cam(small.scores("logit"), small.activation(x), 0) for x in images]
    assert_close(found.raw, raw, factor=4)
    linear = head.endswith("-linear") and head.startswith("pooled")
    assert found.passes.head in ((0,) if linear or engine.head.kind.endswith("-linear") else (6,))
