"""AISE."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import camrt
from camrt.engine.extras import MissingExtraError
from camrt.engine.methods import make_method
from camrt.engine.passes import PassCounts
from camrt.errors import MethodError
from helpers.oracles.classifiers import HEADS, classifier
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]
WIDTHS = (0.1, 0.25)


def expected_map(score: Callable[[np.ndarray], float], image: np.ndarray, places: int) -> np.ndarray:
    """One search after the other, each a single run of SciPy's DIRECT."""
    from scipy.optimize import Bounds, direct

    _, height, width = image.shape
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    total = np.zeros((height, width))
    for sigma in WIDTHS:
        tried: list[np.ndarray] = []

        def loss(at: np.ndarray, sigma: float = sigma, tried: list[np.ndarray] = tried) -> float:
            bell = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * sigma**2))
            bell = (bell / bell.max()).astype(np.float32)
            value = score(image * bell) - score(image * (1 - bell))
            tried.append(bell * value)
            return -value

        direct(loss, Bounds([0.0, 0.0], [1.0, 1.0]), eps=0.1, maxfun=places, locally_biased=False)
        found = np.sum(tried[:places], axis=0)
        total += found / (found.max() if found.max() > 0 else 1)
    return total


@pytest.mark.parametrize("head", HEADS)
def test_against_searches_one_by_one(engine_of: EngineOf, head: str) -> None:
    pytest.importorskip("scipy")
    small = classifier(head, cells=(4, 5), scale=0.5, trunk="convolve")
    images = np.random.default_rng(61).normal(size=(2, *small.image)).astype(np.float32)
    targets = [[0, 3], [1, 2]]
    found = engine_of(small, batch_size=3).explain(
        images, "aise", targets=targets, passes=44, widths=WIDTHS, score="logit"
    )
    scores = small.scores_of_image("logit")
    raw = [
        [expected_map(lambda one, c=c: float(scores(one)[c]), image, 11) for c in row]
        for image, row in zip(images, targets, strict=True)
    ]
    assert_close(found.raw, raw, factor=40)
    assert found.passes == PassCounts(trunk=2, full=2 * 2 * 44)


def test_it_names_the_extra(engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch) -> None:
    small = classifier("pooled-linear", trunk="convolve")
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingExtraError, match=r"scipy is not installed.*pip install 'camrt\[evaluate\]'"):
        engine_of(small).explain(np.zeros((1, *small.image), np.float32), "aise")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"passes": 5}, "aise: passes=5 must be a whole number >= 6"),
    ({"widths": ()}, r"aise: widths=\(\) must be one or more numbers > 0"),
    ({"widths": (0.1, -1)}, "aise: widths=.* must be one or more numbers > 0"),
    ({"epsilon": "a"}, "aise: epsilon='a' must be a number >= 0"),
]


@pytest.mark.parametrize(("options", "text"), WRONG, ids=str)
def test_wrong_options_are_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(MethodError, match=text):
        make_method("aise", options)
