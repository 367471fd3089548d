"""Sparseness and complexity: known maps, the papers' sums, and what is undefined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from camrt.errors import InputError
from camrt.evaluation.metrics import complexity, sparseness
from helpers.oracles import concentration as oracle

MAP = arrays(np.float64, (3, 4), elements=st.sampled_from([0.0, 1.0, -0.5, 0.25, 3e-7, 1e300, 5e-324]))


def test_a_point_and_a_plain() -> None:
    point, plain = np.zeros((5, 4)), np.full((5, 4), 0.3)
    point[2, 1] = 0.7
    maps = np.stack([point, plain])
    assert sparseness(maps) == pytest.approx([1 - 1 / 20, 0], abs=1e-15)
    assert complexity(maps) == pytest.approx([0, np.log(20)], abs=1e-15)


def test_a_ramp() -> None:
    """The Gini index of 0, 1, ..., n − 1 is (n + 1) / (3n)."""
    ramp = np.arange(12.0).reshape(1, 3, 4)
    assert sparseness(ramp)[0] == pytest.approx(13 / 36)


@settings(max_examples=60, deadline=None)
@given(MAP)
def test_the_papers_sums(saliency: Any) -> None:
    found = sparseness(saliency[None])[0], complexity(saliency[None])[0]
    values = saliency.ravel() / max(np.abs(saliency).max(), 5e-324)
    assert found == pytest.approx((oracle.gini(values), oracle.entropy(values)), abs=1e-12, nan_ok=True)


def test_no_share_of_nothing() -> None:
    maps = np.zeros((2, 3, 3))
    maps[1, 0, 0] = 1
    for measure in (sparseness, complexity):
        assert np.isnan(measure(maps)).tolist() == [True, False]
        assert measure(np.zeros((0, 3, 3))).shape == (0,)


@pytest.mark.parametrize("measure", [sparseness, complexity])
@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (np.zeros((3, 3)), r"maps must be \(N, H, W\), not \(3, 3\)"),
        (np.zeros((1, 0, 3)), r"maps must be \(N, H, W\)"),
        (np.full((1, 2, 2), np.nan), "finite"),
        (np.full((1, 2, 2), np.inf), "finite"),
    ],
)
def test_bad_maps(measure: Any, maps: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure(maps)
