from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import camrt
from camrt.engine.methods import make_method
from camrt.engine.methods.fem import FEM
from camrt.engine.passes import PassCounts
from camrt.errors import MethodError
from helpers.oracles.classifiers import HEADS, classifier
from helpers.oracles.fem import fem
from helpers.oracles.head_scores import HeadScores
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("definition", ["paper", "grad-cam"])
@pytest.mark.parametrize("sigmas", [2.0, 0.5, -0.3])
def test_against_the_oracle(engine_of: EngineOf, head: str, definition: str, sigmas: float) -> None:
    small = classifier(head, cells=(5, 6), channels=4, trunk="keep")
    images = np.random.default_rng(3).normal(size=(3, *small.image)).astype(np.float32)
    found = engine_of(small).explain(
        images, "fem", definition=definition, sigmas=sigmas, targets=[[0, 1]] * 3
    )
    expected = np.array([fem(x, definition=definition, sigmas=sigmas) for x in images])
    assert_close(found.raw, np.repeat(expected[:, None], 2, axis=1))
    assert found.passes == PassCounts(trunk=3)


def mapped(method: FEM, activation: np.ndarray) -> np.ndarray:
    """The raw map of one activation."""
    raw, _ = method.raw(HeadScores(activation, lambda _: np.zeros(1)))
    return raw[0, 0]


def test_a_map_by_hand() -> None:
    """Nine cells, one of them 9 and the others 0: mean 1, standard deviation √8, and 9 is √8 of them away."""
    peak = np.zeros((2, 3, 3))
    peak[0, 1, 2] = 9
    peak[1] = 3  # constant: it marks every cell by the paper's definition, and none by the package's
    expected = np.full((3, 3), 3.0)
    expected[1, 2] += 1
    assert_close(mapped(FEM(), peak), expected, np.float32)
    assert_close(mapped(FEM(definition="grad-cam"), peak), peak[0] / 9, np.float32)
    assert not (mapped(FEM(sigmas=3.0), peak) - 3).any()


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e5 / 7])
def test_a_constant_channel_has_no_rounding_that_is_rare(value: float) -> None:
    constant = np.full((1, 3, 7), np.float32(value))
    assert_close(mapped(FEM(), constant), constant[0].astype(np.float64), np.float32)
    assert not mapped(FEM(definition="grad-cam"), constant).any()


@pytest.mark.parametrize("sigmas", [np.nan, np.inf, "2", True, None])
def test_wrong_options_are_refused(sigmas: object) -> None:
    with pytest.raises(MethodError, match=r"fem: sigmas=.* must be a number"):
        make_method("FEM", {"sigmas": sigmas})
