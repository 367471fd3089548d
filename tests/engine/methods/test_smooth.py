from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import camrt
from camrt.engine.methods import make_method
from camrt.engine.methods.smooth import SmoothGradCAMPlusPlus
from camrt.errors import MethodError
from helpers.oracles.classifiers import HEADS, classifier
from helpers.oracles.gradients import METHODS, numeric_gradient, smooth_grad_cam_plus_plus
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]


def images_of(shape: tuple[int, ...], count: int = 3) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(count, *shape)).astype(np.float32)


def noisy(image: np.ndarray, definition: str, draws: int, noise: float, seed: int) -> list[np.ndarray]:
    strength = noise * (image.max() - image.min() if definition == "paper" else 1)
    return [
        image + strength * np.random.default_rng([seed, draw]).standard_normal(image.shape, np.float32)
        for draw in range(draws)
    ]


@pytest.mark.parametrize("definition", ["paper", "torchcam"])
@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("head", HEADS)
def test_against_the_oracle(engine_of: EngineOf, head: str, definition: str, score: str) -> None:
    small = classifier(head, cells=(2, 3), scale=0.5, trunk="convolve")
    images, targets = images_of(small.image), [[0, 3], [1, 2], [3, 1]]
    options: dict[str, Any] = {"definition": definition, "draws": 3, "noise": 0.2, "seed": 5}
    found = engine_of(small, batch_size=4).explain(
        images, "smoothgradcam++", targets=targets, score=score, **options
    )
    scores = small.scores(score)
    for image, row, maps in zip(images, targets, found.raw, strict=True):
        seen = [small.activation(copy) for copy in noisy(image, definition, 3, 0.2, 5)]
        for c, raw in zip(row, maps, strict=True):
            gradients = [numeric_gradient(lambda a, c=c: scores(a)[c], one) for one in seen]
            expected = smooth_grad_cam_plus_plus(
                gradients, small.activation(image), seen[-1], definition=definition
            )
            assert_close(raw, expected, factor=100)  # a fraction whose denominator may be small
    linear = head in ("pooled-linear", "flattened-linear") and score == "logit"
    assert found.passes.full == ((3 if definition == "torchcam" else 0) if linear else 9)
    assert found.passes.trunk == 3


@pytest.mark.parametrize("head", HEADS)
def test_the_draws_depend_on_the_seed_alone(engine_of: EngineOf, head: str) -> None:
    small = classifier(head, trunk="convolve")
    images = images_of(small.image, 5)
    ask = {"draws": 3, "score": "probability", "targets": [[2, 0]] * 5}
    together = engine_of(small, batch_size=32).explain(images, "smoothgradcam++", **ask).raw
    for batch_size in (1, 2, 7):
        again = engine_of(small, batch_size=batch_size).explain(images, "smoothgradcam++", **ask).raw
        assert_close(again, together, factor=8)
    alone = engine_of(small).explain(images[3:4], "smoothgradcam++", **{**ask, "targets": [[2, 0]]}).raw
    assert_close(alone[0], together[3], factor=8)
    other = engine_of(small).explain(images, "smoothgradcam++", seed=1, **ask).raw
    assert np.abs(other - together).max() > 1e-3 * np.abs(together).max()


@pytest.mark.parametrize("head", HEADS)
def test_without_noise_torchcams_is_grad_cam_plus_plus_with_another_sum(
    engine_of: EngineOf, head: str
) -> None:
    small = classifier(head, cells=(3, 4), trunk="convolve")
    images = images_of(small.image)
    engine = engine_of(small)
    plain = engine.explain(images, "smoothgradcam++", noise=0, draws=2, targets=1).raw
    scores = small.scores("logit")
    for image, raw in zip(images, plain, strict=True):
        gradient = numeric_gradient(lambda a: scores(a)[1], small.activation(image))
        g, total = gradient, small.activation(image).sum((1, 2), keepdims=True)
        shares = np.where(g > 0, 1 / np.where(g == 0, 1, 2 + total * g), 0)  # g/(2g² + S·g³)·g
        assert_close(raw, np.tensordot(shares.sum((1, 2)), small.activation(image), 1), factor=20)
    assert "gradcam++" in METHODS


def test_an_image_with_its_rivals(engine_of: EngineOf) -> None:
    """Those of the image itself are meant in every noisy copy."""
    small = classifier("generic", trunk="convolve")
    images = images_of(small.image)
    ask = {"draws": 2, "noise": 0.0, "definition": "torchcam"}
    found = engine_of(small).explain(images, "smoothgradcam++", contrast="similar", rivals=1, **ask)
    one = engine_of(small).explain(
        images, "smoothgradcam++", contrast="similar", rivals=1, **{**ask, "draws": 1}
    )
    assert_close(found.raw, one.raw, factor=8)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"draws": 0}, "draws=0 must be a whole number >= 1"),
        ({"noise": -1}, "noise=-1 must be a number >= 0"),
        ({"noise": "0.1"}, "noise='0.1' must be a number >= 0"),
        ({"seed": 1.5}, r"seed=1\.5 must be a whole number >= 0"),
        ({"definition": "grad-cam"}, "choose from 'paper', 'torchcam'"),
    ],
    ids=str,
)
def test_wrong_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(MethodError, match=text):
        make_method("Smooth Grad-CAM++", options)
    assert type(make_method("SmoothGradCAMpp", {})) is SmoothGradCAMPlusPlus
