"""PxAP: the specification's vectors, exact fractions, scikit-learn, and the benchmark's bins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from camrt.errors import InputError
from camrt.evaluation import pxap
from camrt.evaluation.metrics.pixel_precision import (
    EDGES,
    PixelCounts,
    average_precision,
    binned_average_precision,
    histogram,
)
from helpers.oracles import pixel_precision as oracle

SCORES = np.array([0.9, 0.6, 0.6, 0.1, 0.8, 0.3, 0.1, 0.0])
MARKS = np.array([1, 1, 1, 1, 0, 0, 0, 0])


FINITE = st.one_of(
    st.sampled_from([0.0, -0.0, 0.5, 1e-300, -1e300, 3.4e38, 1e-45]),
    st.floats(allow_nan=False, allow_infinity=False),
)


def slow(scores: Any, marks: Any) -> float:
    return float(oracle.average_precision(np.ravel(scores).tolist(), np.ravel(marks).tolist()))


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


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(FINITE, st.sampled_from([0, 1, 255])), min_size=1, max_size=40))
def test_any_finite_scores_against_the_definition(pairs: Any) -> None:
    scores, marks = np.array([s for s, _ in pairs]), np.array([m for _, m in pairs])
    marks[0] = 1
    assert average_precision(scores, marks) == pytest.approx(slow(scores, marks), abs=1e-13)
    rounded = scores.clip(-3e38, 3e38).astype(np.float32)
    assert average_precision(rounded, marks) == pytest.approx(slow(rounded, marks), abs=1e-13)


def test_scores_that_float32_cannot_tell_apart() -> None:
    scores, marks = np.array([0.5, 0.5 + 1e-12]), np.array([0, 1])
    assert average_precision(scores, marks) == 1.0
    assert average_precision(scores.astype(np.float32), marks) == 0.5
    # maps are taken as float32, so that whole data sets fit into memory
    assert pxap(scores.reshape(1, 1, 2), marks.reshape(1, 1, 2)).value == 50


def test_lists_and_whole_numbers_are_scores() -> None:
    assert average_precision([3, -1, 2], [True, False, True]) == 1.0
    assert pxap([[[1, 0]]], [[[1, 0]]]).value == 100


def test_the_order_of_scores_is_all_that_counts() -> None:
    rng = np.random.default_rng(6)
    scores, marks = np.round(rng.standard_normal(300), 1), rng.integers(0, 2, 300)
    expected = average_precision(scores, marks)
    for changed in (scores * 1e30, np.exp(scores), scores - 1e3, np.cbrt(scores)):
        assert average_precision(changed, marks) == pytest.approx(expected, abs=1e-14)
    shuffled = rng.permutation(300)
    assert average_precision(scores[shuffled], marks[shuffled]) == expected


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(
    "edges", [EDGES, np.array([0, 0.25, 0.5, 0.75, 1]), np.array([-1, 0.1, 0.3])], ids=len
)
def test_scores_on_the_edges(edges: Any, kind: Any) -> None:
    on = edges.astype(kind)
    near = [on, np.nextafter(on, kind(-9)), np.nextafter(on, kind(9)), np.array([-0.0, -5, 9], kind)]
    scores = np.concatenate(near)
    marks = np.random.default_rng(7).choice([0, 1, 255], len(scores), p=[0.4, 0.4, 0.2])
    counts = histogram(scores, marks, edges)
    assert counts.tolist() == oracle.counted(scores.astype(float).tolist(), marks.tolist(), edges.tolist())
    expected = oracle.binned(scores.astype(float).tolist(), marks.tolist(), edges.tolist())
    assert binned_average_precision(counts[1], counts[0]) == pytest.approx(float(expected), abs=1e-13)


@pytest.mark.parametrize("definition", ["exact", "reference"])
def test_pieces_of_a_data_set_give_what_the_whole_does(definition: Any) -> None:
    rng = np.random.default_rng(9)
    maps = np.round(rng.random((7, 11, 13)), 2)
    masks = rng.choice([0, 1, 255], maps.shape)
    whole = pxap(maps, masks, definition=definition)
    counts = PixelCounts(definition)
    for start, end in ((0, 1), (1, 4), (4, 4), (4, 7)):
        counts.add(maps[start:end], masks[start:end])
        if end > 1:
            so_far = pxap(maps[:end], masks[:end], definition=definition)
            assert counts.result().value == pytest.approx(so_far.value, abs=1e-11)
    again = counts.result()
    assert again.value == pytest.approx(whole.value, abs=1e-11)
    np.testing.assert_array_equal(again.precision, whole.precision)
    np.testing.assert_array_equal(again.recall, whole.recall)
    fields = ("definition", "positives", "negatives", "ignored", "images")
    assert [getattr(again, name) for name in fields] == [getattr(whole, name) for name in fields]
    assert whole.images == 7


def test_what_is_ignored_may_have_any_score() -> None:
    maps, masks = np.array([[[0.9, 0.2, 1.0, 0.0]]]), np.array([[[1, 0, 255, 255]]])
    assert pxap(maps, masks).value == 100
    assert pxap(maps, masks).ignored == 2


def test_the_caller_may_use_its_arrays_again() -> None:
    buffer, marks = np.array([[[0.9, 0.2, 0.1]]], np.float32), np.array([[[1, 0, 0]]], np.uint8)
    counts = PixelCounts()
    counts.add(buffer, marks)
    buffer[...] = [[[0.1, 0.8, 0.9]]]
    assert counts.result().value == 100
    marks[...] = [[[0, 1, 1]]]
    assert counts.result().value == 100


@pytest.mark.peers
@pytest.mark.parametrize("scale", [1, -1, 1e30])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_any_scores_against_scikit_learn(scale: float, kind: Any) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(10)
    for decimals in (0, 1, 6):
        scores = (scale * np.round(rng.standard_normal(3000), decimals)).astype(kind)
        marks = (rng.random(3000) < 0.2).astype(int)
        expected = metrics.average_precision_score(marks, scores)
        assert average_precision(scores, marks) == pytest.approx(expected, abs=1e-12)


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
        (np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), "whole numbers"),
        (np.zeros((1, 2, 2), complex), np.ones((1, 2, 2), int), "real numbers"),
        (np.full((1, 2, 2), np.inf), np.ones((1, 2, 2), int), "finite"),
        (np.zeros((0, 2, 2)), np.zeros((0, 2, 2), int), "no pixel is marked"),
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
    with pytest.raises(InputError, match="finite"):
        average_precision([0.5, np.nan], [0, 1])
    with pytest.raises(InputError, match="edges must rise"):
        histogram([0.5], [1], [1, 0])
    with pytest.raises(InputError, match="no pixel is marked"):
        PixelCounts().result()
    with pytest.raises(InputError, match="no positives"):
        binned_average_precision(np.zeros(3, int), np.ones(3, int))
