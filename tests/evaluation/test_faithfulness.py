"""Average drop, increase in confidence and compactness: the specification's vector and what is undefined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.errors import InputError
from camrt.evaluation.metrics.faithfulness import check_probabilities, compactness, drops, increases

PROBABILITY = st.one_of(st.sampled_from([0.0, 1.0, 0.5, 1e-300]), st.floats(0, 1))


def test_the_specifications_drop_and_increase() -> None:
    before, after = [0.8, 0.5, 0.4], [0.4, 0.6, 0.4]
    assert drops(before, after).tolist() == [0.5, 0, 0]
    assert increases(before, after).tolist() == [0, 1, 0]
    assert 100 * drops(before, after).mean() == pytest.approx(16.67, abs=5e-3)
    assert 100 * increases(before, after).mean() == pytest.approx(33.33, abs=5e-3)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(PROBABILITY, PROBABILITY), min_size=1))
def test_one_image_after_another(pairs: Any) -> None:
    before, after = np.array(pairs).T
    for y, o, lost, surer in zip(before, after, drops(before, after), increases(before, after), strict=True):
        assert surer == (1 if o > y else 0)
        if y == 0:
            assert np.isnan(lost)
        else:
            assert lost == pytest.approx((y - o) / y if o < y else 0)
            assert 0 <= lost <= 1


def test_what_is_undefined_is_nan() -> None:
    assert np.isnan(drops([0.0, 0.5, np.nan], [0.1, np.nan, 0.1])).all()
    assert np.isnan(increases([np.nan, 0.5, np.nan], [0.1, np.nan, np.nan])).all()
    assert increases([0.0], [0.1]).tolist() == [1.0]
    found = drops([0.5, np.nan, 0.0, 0.5], [0.25, 0.5, 0.0, 0.5])
    assert np.isnan(found).tolist() == [False, True, True, False]
    assert np.nanmean(found) == 0.25


def test_a_softmax_in_float32_may_exceed_one_a_little() -> None:
    assert drops([np.float32(1.0000001)], [1.0])[0] < 1e-6
    with pytest.raises(InputError, match=r"lie in \[0, 1\]"):
        drops([1.001], [1.0])


def test_no_images() -> None:
    assert drops([], []).shape == increases([], []).shape == (0,)
    assert compactness(np.zeros((0, 7, 7))).shape == (0,)


@pytest.mark.parametrize("asked", [drops, increases, check_probabilities])
@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([1.5], [0.1], r"lie in \[0, 1\]"),
        ([0.5], [-0.1], r"lie in \[0, 1\]"),
        ([np.inf], [0.1], r"lie in \[0, 1\]"),
        ([0.5], [-np.inf], r"lie in \[0, 1\]"),
        ([0.5], [0.1, 0.2], r"must be \(N,\)"),
        ([[0.5]], [[0.1]], r"must be \(N,\)"),
        (0.5, 0.1, r"must be \(N,\)"),
    ],
)
def test_bad_probabilities(asked: Any, before: Any, after: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        asked(before, after)


def test_compactness_counts_cells() -> None:
    maps = np.zeros((2, 8, 8))
    maps[0, :2, :4] = 0.5
    assert compactness(maps).tolist() == [4.0, 0.0]
    assert compactness(np.ones((1, 8, 8), np.float32)).tolist() == [64.0]


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (np.zeros((8, 8)), r"maps must be \(N, h, w\)"),
        (np.zeros((1, 0, 8)), r"maps must be \(N, h, w\)"),
        (np.full((1, 2, 2), -0.5), r"lie in \[0, 1\]"),
        (np.full((1, 2, 2), 1.5), r"lie in \[0, 1\]"),
        (np.full((1, 2, 2), np.nan), "finite"),
    ],
)
def test_bad_maps(maps: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compactness(maps)
