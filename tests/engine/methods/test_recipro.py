from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import camrt
from camrt.engine.methods import make_method
from camrt.errors import MethodError
from camrt.kernels.saliency import MapFlag
from helpers.oracles import postprocess
from helpers.oracles.classifiers import HEADS, classifier, pooled_linear
from helpers.oracles.recipro import recipro_cam
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]
# Differences of scores, which may be small beside them.
FACTOR = 50


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("ending", [None, "sigmoid"], ids=["logits", "sigmoid"])
@pytest.mark.parametrize("head", HEADS)
def test_against_the_oracle(engine_of: EngineOf, head: str, ending: Any, score: str, gaussian: bool) -> None:
    small = classifier(head, cells=(3, 5), ending=ending, scale=0.5, trunk="convolve")
    images = np.random.default_rng(7).normal(size=(3, *small.image)).astype(np.float32)
    engine, targets = engine_of(small), [[0, 3], [1, 2], [3, 1]]
    found = engine.explain(images, "recipro", targets=targets, score=score, gaussian=gaussian, size="map")
    scores = small.scores(score)
    for image, row, raws, maps in zip(images, targets, found.raw, found.maps, strict=True):
        for c, raw, map_ in zip(row, raws, maps, strict=True):

            def of_class(a: np.ndarray, c: int = c) -> float:
                return float(scores(a)[c])

            activation = small.activation(image)
            assert_close(raw, recipro_cam(of_class, activation, gaussian=gaussian), factor=FACTOR)
            published = recipro_cam(of_class, activation, gaussian=gaussian, less_empty=False)
            stretched = postprocess.native(published, (3, 5), minmax=True, rectify=False)
            assert_close(map_, stretched, factor=FACTOR)
    linear = head in ("pooled-linear", "flattened-linear")
    assert (found.passes.head == 0) == linear
    assert found.passes.head <= 3 * 15


def test_the_default_is_the_probability_of_one_cell(engine_of: EngineOf) -> None:
    small = classifier("generic", trunk="convolve")
    images = np.random.default_rng(7).normal(size=(2, *small.image)).astype(np.float32)
    engine = engine_of(small)
    plain = engine.explain(images, "Recipro-CAM")
    same = engine.explain(images, "recipro", score="probability", gaussian=False, normalisation="minmax")
    assert np.array_equal(plain.maps, same.maps)


def test_the_last_bits_of_a_saturated_probability_are_no_map(engine_of: EngineOf) -> None:
    small = pooled_linear(np.random.default_rng(1).normal(size=(3, 3)) / 50, np.array([14.5, 0, 0]), (4, 5))
    image = np.random.default_rng(0).random((1, 3, 4, 5)).astype(np.float32) + 0.1
    found = engine_of(small).explain(image, "recipro", targets=0)
    assert found.flags.tolist() == [MapFlag.CONSTANT]
    assert not found.maps.any()


def test_wrong_options_are_refused() -> None:
    with pytest.raises(MethodError, match="recipro: gaussian='yes' must be True or False"):
        make_method("recipro", {"gaussian": "yes"})
