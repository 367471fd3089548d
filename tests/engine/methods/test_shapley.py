from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import camrt
from camrt.engine.methods import make_method
from camrt.errors import MethodError
from helpers.oracles.classifiers import HEADS, classifier
from helpers.oracles.gradients import shapley_cam
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]
# Differences of differences are good to 1e-6 of a function's own size.
FACTOR = 50


@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("ending", [None, "softmax", "sigmoid"], ids=["logits", "softmax", "sigmoid"])
@pytest.mark.parametrize("head", HEADS)
def test_against_the_oracle(engine_of: EngineOf, head: str, ending: Any, score: str) -> None:
    small = classifier(head, cells=(3, 2), ending=ending, scale=0.5, trunk="keep")
    images = np.random.default_rng(7).normal(size=(2, *small.image)).astype(np.float32)
    found = engine_of(small).explain(images, "shapley", targets=[[0, 3], [1, 2]], score=score)
    scores = small.scores(score)
    for image, row, maps in zip(images, ((0, 3), (1, 2)), found.raw, strict=True):
        for c, raw in zip(row, maps, strict=True):
            expected = shapley_cam(lambda a, c=c: scores(a)[c], image.astype(np.float64))
            assert_close(raw, expected, factor=FACTOR)
    linear = head in ("pooled-linear", "flattened-linear") and score == "logit"
    assert found.passes.head_adjoint == (0 if linear else 8 if score == "logit" else 16)


@pytest.mark.parametrize("head", ["pooled-linear", "pooled-network", "flattened-network", "generic"])
def test_behind_what_is_linear_in_pieces_it_is_grad_cam(engine_of: EngineOf, head: str) -> None:
    small = classifier(head, trunk="convolve")
    images = np.random.default_rng(3).normal(size=(3, *small.image)).astype(np.float32)
    engine = engine_of(small)
    ask = {"targets": [[0, 1]] * 3}
    assert_close(
        engine.explain(images, "shapley", **ask).raw, engine.explain(images, "gradcam", **ask).raw, factor=4
    )


@pytest.mark.parametrize("contrast", ["similar", 2])
def test_a_contrast_is_a_difference_of_maps(engine_of: EngineOf, contrast: Any) -> None:
    small = classifier("generic", scale=0.5, trunk="keep")
    images = np.random.default_rng(3).normal(size=(2, *small.image)).astype(np.float32)
    engine = engine_of(small)
    options = {"score": "probability", "strength": 0.5, "contrast": contrast}
    if contrast == "similar":
        options["rivals"] = 3
    found = engine.explain(images, "shapley", targets=1, **options)
    every = engine.explain(images, "shapley", targets=[list(range(4))] * 2, score="probability").raw
    others = [0, 2, 3] if contrast == "similar" else [2]
    assert_close(found.raw, every[:, 1] - 0.5 * every[:, others].mean(axis=1), factor=8)


def test_weighted_rivals_are_refused() -> None:
    with pytest.raises(MethodError, match=r"shapley: contrast='similar-weighted' .*; use 'similar'"):
        make_method("ShapleyCAM", {"contrast": "similar-weighted"})
