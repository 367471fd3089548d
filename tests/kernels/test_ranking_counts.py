import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from camrt.kernels.ranking_counts import average_precision, histogram, reference

EDGES = np.append(np.arange(0, 1, 0.001), [1.0, 2.0, 3.0])
LOGARITHMIC = 10.0 ** -np.arange(6.993, -0.001, -0.007)


@pytest.mark.parametrize("edges", [EDGES, LOGARITHMIC, [0.25, 0.5], [-3.0, -1e-30, 0.0, 1e30]], ids=len)
@pytest.mark.parametrize("length", [0, 1, 2049, 700_000])
def test_counts_are_numpys(native, edges, length, rng, threads):
    near = np.concatenate([np.asarray(edges), rng.random(1000)]).astype(np.float32)
    near = np.concatenate([near, np.nextafter(near, np.float32(9)), np.nextafter(near, np.float32(-9))])
    scores = rng.choice(np.append(near, [-0.0, -5, 7, 1e38]).astype(np.float32), length)
    marks = rng.choice([0, 1, 255], length).astype(np.uint8)
    found = histogram(scores, marks, edges, threads)
    assert np.array_equal(found.counts, reference.histogram(scores, marks, np.asarray(edges)))
    assert found.ignored == (marks == 255).sum()
    assert found.low == min(scores.min(initial=0), 0)
    assert found.high == max(scores.max(initial=0), 0)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_average_precision_is_the_references(data):
    length = data.draw(st.integers(1, 60))
    some = st.one_of(st.sampled_from([0.0, -0.0, 0.5, 1.0, -2.0, 1e-45, 3e38]), st.floats(-1, 1, width=32))
    scores = data.draw(hnp.arrays(np.float32, length, elements=some))
    marks = data.draw(hnp.arrays(np.uint8, length, elements=st.sampled_from([0, 1, 255])))
    marks[data.draw(st.integers(0, length - 1))] = 1
    expected = reference.average_precision(scores.astype(np.float64), marks)
    assert average_precision(scores, marks) == pytest.approx(expected, abs=1e-12)
    assert average_precision(scores.astype(np.float64), marks) == pytest.approx(expected, abs=1e-12)


def test_crowded_buckets_and_threads(native, rng, threads):
    """Scores so close together that most share their first bits, and many that are equal."""
    scores = (0.5 + rng.integers(0, 3000, 900_000) * 2.0**-24).astype(np.float32)
    scores[::7] = rng.random(len(scores[::7]))
    marks = (rng.random(len(scores)) < 0.1).astype(np.uint8)
    marks[::11] = 255
    expected = reference.average_precision(scores.astype(np.float64), marks)
    assert average_precision(scores, marks, threads) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    ("scores", "marks", "message"),
    [
        ([0.5, np.nan], [0, 1], "finite"),
        ([0.5, np.inf], [0, 1], "finite"),
        ([0.5, 0.1], [0, 2], "marks must be"),
        ([0.5, 0.1], [0, 300], "marks must be"),
        ([0.5, 0.1], [0.0, 1.0], "whole numbers"),
        ([0.5], [0, 1], "shape"),
        ([0.5, 0.1], [0, 0], "without positives"),
    ],
)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_bad_arguments(scores, marks, message, kind):
    with pytest.raises(ValueError, match=message):
        average_precision(np.array(scores, kind), np.array(marks))
    if "positives" not in message:
        with pytest.raises(ValueError, match=message):
            histogram(np.array(scores, kind), np.array(marks), EDGES)


@pytest.mark.parametrize("edges", [[0.0], [0.0, 0.0], [1.0, 0.0], [[0.0, 1.0]]])
def test_edges_must_rise(edges):
    with pytest.raises(ValueError, match="edges must rise"):
        histogram(np.zeros(1, np.float32), np.zeros(1, np.uint8), edges)
