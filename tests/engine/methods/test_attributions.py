"""Methods that share out a score among the pixels, against slow ones and by what their shares add up to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import camrt
from camrt.engine.methods import make_method
from camrt.engine.methods.references import ReferenceImages
from camrt.errors import MethodError
from helpers.oracles.classifiers import HEADS, classifier
from helpers.oracles.gradients import numeric_gradient
from helpers.oracles.paths import blurred, expected, guided_way, integrated_over_blurs
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]
EXACT = {"blur": 1, "colours": "sum"}


def batch(small: Any, count: int = 2, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, *small.image)).astype(np.float32)


@pytest.fixture(params=HEADS)
def small(request: pytest.FixtureRequest) -> Any:
    return classifier(request.param, cells=(2, 3), scale=0.5, trunk="convolve")


@pytest.mark.parametrize("score", ["logit", "probability"])
def test_gradient_times_input(engine_of: EngineOf, small: Any, score: str) -> None:
    images, scores = batch(small), small.scores_of_image(score)
    found = engine_of(small).explain(
        images, "gradient-times-input", targets=[[0, 2]] * 2, score=score, **EXACT
    )
    wanted = [[x * numeric_gradient(lambda a, c=c: scores(a)[c], x) for c in (0, 2)] for x in images]
    assert_close(found.raw, np.sum(wanted, axis=2), factor=40 if score == "probability" else 8)
    assert found.passes.full_adjoint == 4


def test_the_strongest_colour_and_the_sum_of_colours(engine_of: EngineOf) -> None:
    small = classifier("generic", cells=(2, 3), trunk="convolve")
    images = batch(small)
    wanted = [x * numeric_gradient(lambda a: small.logits(a)[1], x) for x in images]
    found = engine_of(small).explain(images, "gradient-times-input", targets=1, blur=1)
    assert_close(found.raw, np.abs(wanted).max(axis=1), factor=8)


def test_blur_integrated(engine_of: EngineOf, small: Any) -> None:
    images = batch(small)
    options = {"targets": 1, "steps": 5, "sigma": 2.5}
    found = engine_of(small, batch_size=3).explain(images, "blur-integrated", **options, **EXACT)
    wanted = [integrated_over_blurs(lambda a: small.logits(a)[1], x.astype(float), 5, 2.5) for x in images]
    assert_close(found.raw, np.sum(wanted, axis=1), factor=40)
    assert found.passes.full_adjoint == 2 * 6


def test_blur_integrated_is_complete(engine_of: EngineOf) -> None:
    small = classifier("generic", cells=(2, 3), scale=0.5, trunk="convolve")
    images = batch(small)
    found = engine_of(small).explain(images, "blur-integrated", targets=1, steps=400, sigma=4.0, **EXACT)
    change = [small.logits(x)[1] - small.logits(blurred(x.astype(float), 4.0))[1] for x in images]
    assert np.abs(found.raw.sum(axis=(1, 2)) - change).max() < 0.01


@pytest.mark.parametrize(("fraction", "distance"), [(0.25, 0.1), (0.1, 1.0), (1.0, 0.0), (0.4, 0.02)])
@pytest.mark.parametrize("head", ["flattened-linear", "flattened-network"])
def test_guided_integrated(engine_of: EngineOf, head: str, fraction: float, distance: float) -> None:
    """From an image of zeros, where all ReLUs stand at their corners and nothing passes back.

    Behind a mean many pixels have one slope, and which of them are among the smallest is decided by rounding.
    """
    small = classifier(head, cells=(2, 3), scale=0.5, trunk="convolve")
    images = batch(small)
    options = {"steps": 4, "fraction": fraction, "distance": distance}
    found = engine_of(small).explain(images, "guided-integrated", targets=1, **options, **EXACT)

    def slopes(a: np.ndarray) -> np.ndarray:
        return numeric_gradient(lambda b: small.logits(b)[1], a) if a.any() else 0 * a

    wanted = [guided_way(slopes, x.astype(float), **options) for x in images]
    assert_close(found.raw, np.sum(wanted, axis=1), factor=200)
    assert found.passes.full_adjoint == 2 * 4


def test_guided_integrated_goes_the_whole_way(engine_of: EngineOf) -> None:
    """Of a linear score every way gives x times its weights."""
    small = classifier("pooled-linear", trunk="keep")
    images = batch(small, 3)
    found = engine_of(small).explain(images, "guided-integrated", targets=[[0, 1]] * 3, steps=7, **EXACT)
    whole = engine_of(small).explain(images, "gradient-times-input", targets=[[0, 1]] * 3, **EXACT)
    assert_close(found.raw, whole.raw, factor=8)


def draws_of(image: np.ndarray, count: int, seed: int, references: Any = None, noise: float = 0.0) -> Any:
    for draw in range(count):
        random = np.random.default_rng([seed, draw, 1])
        share = random.random()
        end = image
        if noise:
            spread = image.max() - image.min()
            pattern = np.random.default_rng([seed, draw]).standard_normal(image.shape, np.float32)
            end = image + noise * spread * pattern
        if references is None:
            start = image.min() + (image.max() - image.min()) * random.random(image.shape, np.float32)
        else:
            start = references[random.integers(len(references))]
        yield start.astype(np.float64), end.astype(np.float64), share


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_expected_gradients(engine_of: EngineOf, small: Any, given: bool, noise: float) -> None:
    images = batch(small)
    references = batch(small, 3, seed=1) if given else None
    found = engine_of(small, batch_size=3).explain(
        images, "expected-gradients", targets=1, draws=5, seed=4, noise=noise, references=references, **EXACT
    )
    wanted = [expected(lambda a: small.logits(a)[1], draws_of(x, 5, 4, references, noise)) for x in images]
    assert_close(found.raw, np.sum(wanted, axis=1), factor=40)
    assert found.passes.full_adjoint == 2 * 5


def test_expected_gradients_are_complete_on_average(engine_of: EngineOf) -> None:
    small = classifier("generic", cells=(2, 3), scale=0.5, trunk="convolve")
    images, references = batch(small), batch(small, 4, seed=1)
    engine = engine_of(small)
    found = engine.explain(
        images, "expected-gradients", targets=1, draws=4000, references=references, **EXACT
    )
    logits = engine.predict(images)[:, 1] - engine.predict(references)[:, 1].mean()
    assert np.abs(found.raw.sum(axis=(1, 2)) - logits).max() < 0.05 * np.abs(logits).max() + 0.02


def test_an_image_gets_its_own_draws_wherever_it_stands(engine_of: EngineOf) -> None:
    small = classifier("pooled-network", trunk="convolve")
    images = batch(small, 5)
    together = engine_of(small, batch_size=2).explain(images, "expected-gradients", targets=1, draws=3)
    alone = engine_of(small, batch_size=7).explain(images[3:4], "expected-gradients", targets=1, draws=3)
    assert_close(alone.raw[0], together.raw[3], factor=4)
    other = engine_of(small).explain(images[3:4], "expected-gradients", targets=1, draws=3, seed=1)
    assert np.abs(other.raw - alone.raw).max() > 0.01 * np.abs(alone.raw).max()


def test_references_are_values() -> None:
    numbers = np.arange(24, dtype=np.float64).reshape(2, 3, 2, 2)
    one, same = (
        make_method("expected-gradients", {"references": given}) for given in (numbers, numbers.tolist())
    )
    assert one == same
    assert hash(one) == hash(same)
    assert isinstance(one.references, ReferenceImages)
    assert one != make_method("expected-gradients", {"references": numbers + 1})
    assert "2×3×2×2" in repr(one)
    assert len(repr(one)) < 300


WRONG = [
    ("expected-gradients", {"references": np.zeros((3, 2, 2))}, r"must be an array \(R, C, H, W\)"),
    ("expected-gradients", {"references": np.full((1, 3, 2, 2), np.nan)}, "of finite numbers"),
    ("expected-gradients", {"references": "black"}, r"must be an array \(R, C, H, W\)"),
    ("expected-gradients", {"draws": 0}, "draws=0 must be a whole number >= 1"),
    ("blur-integrated", {"sigma": 0}, "sigma=0 must be a number > 0"),
    ("blur-integrated", {"steps": 0}, "steps=0 must be a whole number >= 1"),
    ("guided-integrated", {"fraction": 0}, "fraction=0 must be a number > 0 and <= 1"),
    ("guided-integrated", {"distance": 2}, "distance=2 must be a number >= 0 and <= 1"),
    ("guided-integrated", {"colours": "red"}, "colours='red' is not understood"),
]


@pytest.mark.parametrize(("name", "options", "text"), WRONG, ids=lambda value: str(value)[:30])
def test_wrong_options_are_refused(name: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(MethodError, match=text):
        make_method(name, options)


def test_references_of_another_size_are_refused(engine_of: EngineOf) -> None:
    small = classifier("pooled-linear", trunk="convolve")
    with pytest.raises(MethodError, match="where the images are"):
        engine_of(small).explain(batch(small), "expected-gradients", references=np.zeros((1, 3, 2, 2)))
