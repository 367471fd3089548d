"""PxAP: the specification's vectors, scikit-learn, and the benchmark's bins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from camrt.errors import InputError
from camrt.evaluation import pxap
from camrt.evaluation.pixel_precision import (
    EDGES,
    PixelCounts,
    average_precision,
    binned_average_precision,
    histogram,
)

SCORES = np.array([0.9, 0.6, 0.6, 0.1, 0.8, 0.3, 0.1, 0.0])
MARKS = np.array([1, 1, 1, 1, 0, 0, 0, 0])


def slow(scores: Any, marks: Any) -> float:
    """Every different score as a threshold, one by one."""
    scores, positives = np.asarray(scores, float)[marks != 255], np.asarray(marks)[marks != 255] == 1
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        above = scores >= threshold
        precision = (above & positives).sum() / above.sum()
        now = (above & positives).sum() / positives.sum()
        total, recall = total + precision * (now - recall), now
    return total


def test_the_specifications_vector() -> None:
    maps, masks = SCORES.reshape(1, 2, 4), MARKS.reshape(1, 2, 4)
    assert pxap(maps, masks).value == pytest.approx(76.786, abs=5e-4)
    assert pxap(maps, masks, definition="reference").value == pytest.approx(76.786, abs=5e-4)
    coarse = histogram(SCORES, MARKS, [0, 0.25, 0.5, 0.75, 1])
    assert binned_average_precision(coarse[1], coarse[0]) == pytest.approx(0.625)


def test_logarithmic_bins_lose_what_is_below_them() -> None:
    scores = np.array([1e-2, 1e-9, 0, 1e-3, 1e-9, 0, 0, 0])
    marks = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    edges = np.append(10.0 ** -np.arange(6.993, -1e-9, -0.007), [2.0])
    counts = histogram(scores, marks, edges)
    assert binned_average_precision(counts[1], counts[0]) == 1.0
    assert average_precision(scores, marks) == pytest.approx(0.625)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_exact_against_the_definition(data: Any) -> None:
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5)))
    levels = st.sampled_from([0, 0.001, 0.0005, 0.5, 0.999, 1])
    maps = data.draw(hnp.arrays(np.float32, shape, elements=levels))
    masks = data.draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 255])))
    if not (masks == 1).any():
        with pytest.raises(InputError, match="no pixel is marked"):
            pxap(maps, masks)
        return
    found = pxap(maps, masks)
    assert found.value == pytest.approx(100 * slow(maps, masks), abs=1e-9)
    assert (found.positives, found.negatives, found.ignored) == tuple((masks == m).sum() for m in (1, 0, 255))
    pieces = PixelCounts()
    for one, mask in zip(maps, masks, strict=True):
        pieces.add(one[None], mask[None])
    assert pieces.result().value == found.value


@pytest.mark.peers
def test_against_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    maps = np.round(rng.random((5, 40, 40)), 3).astype(np.float32)
    masks = (rng.random(maps.shape) < maps**2).astype(int)
    expected = 100 * metrics.average_precision_score(masks.ravel(), maps.ravel())
    assert pxap(maps, masks).value == pytest.approx(expected, abs=1e-9)


def test_bins_against_numpy() -> None:
    rng = np.random.default_rng(8)
    near = np.nextafter(EDGES[:1001].astype(np.float32), rng.choice([-1, 0, 1], 1001).astype(np.float32))
    maps = rng.choice(near.clip(0, 1), (3, 30, 30)).astype(np.float32)
    masks = rng.integers(0, 2, maps.shape)
    pos, neg = (np.histogram(maps[masks == mark].astype(float), EDGES)[0] for mark in (1, 0))
    found = pxap(maps, masks, definition="reference")
    assert found.value == pytest.approx(100 * binned_average_precision(pos, neg))
    hits, alarms = pos[::-1].cumsum(), neg[::-1].cumsum()
    some = hits + alarms > 0
    assert found.precision[some].tolist() == (hits / np.maximum(hits + alarms, 1))[some].tolist()
    assert np.isnan(found.precision[~some]).all()
    assert found.recall.tolist() == (hits / hits[-1]).tolist()


def test_a_constant_map_has_the_positive_rate_and_a_perfect_one_everything() -> None:
    masks = np.zeros((2, 5, 5), bool)
    masks[:, :2] = True
    for definition in ("exact", "reference"):
        assert pxap(np.full((2, 5, 5), 0.5), masks, definition=definition).value == pytest.approx(40)
        assert pxap(masks.astype(float), masks, definition=definition).value == pytest.approx(100)


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (np.zeros((2, 2)), np.zeros((2, 2), int), "must both be"),
        (np.zeros((1, 2, 2)), np.zeros((1, 2, 3), int), "must both be"),
        (np.full((1, 2, 2), 2.0), np.ones((1, 2, 2), int), "must lie in"),
        (np.full((1, 2, 2), -0.1), np.ones((1, 2, 2), int), "must lie in"),
        (np.full((1, 2, 2), np.nan), np.ones((1, 2, 2), int), "finite"),
        (np.zeros((1, 2, 2)), np.full((1, 2, 2), 7), "marks must be"),
    ],
)
def test_bad_input(maps: Any, masks: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pxap(maps, masks)


def test_bad_definition_and_no_positives() -> None:
    with pytest.raises(InputError, match="definition"):
        PixelCounts("fine")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="without positives"):
        average_precision([0.5], [0])
    with pytest.raises(InputError, match="no positives"):
        binned_average_precision(np.zeros(3, int), np.ones(3, int))
