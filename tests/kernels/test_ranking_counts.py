import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.kernels.ranking_counts import IGNORED, average_precision, histogram, reference

THOUSAND = np.append(np.arange(0, 1, 0.001), [1.0, 2.0, 3.0])
# Borders that no equal cells can tell apart, that float32 cannot, or whose range float32 does not hold.
EDGES = {
    "thousand": THOUSAND,
    "logarithmic": 10.0 ** -np.arange(6.993, -0.001, -0.007),
    "one bin": [0.25, 0.75],
    "quarters": [0, 0.25, 0.5, 0.75, 1],
    "negative": [-2, -0.5, 0, 0.5],
    "many in one cell": [0, *(0.5 + 1e-7 * np.arange(20)), 1],
    "between two floats": [0, 0.1, np.nextafter(0.1, 1), 0.1 + 1e-12, 1],
    "to infinity": [0, 0.5, np.inf],
    "all numbers": [-np.inf, 0, np.inf],
    "beyond float32": [-1e300, -1, 1, 1e300],
    "nearly beyond": [-3.4e38, 0, 3.4e38],
    "subnormal": [0, 1e-45, 1e-40, 1e-38, 1],
    "subnormal range": [0, 1e-45],
    "below float32": [5e-324, 1e-323],
}
LENGTHS = [1, 2, 63, 2049, 70_000]
SHARED = 1_100_001  # enough for a second thread


def marked(rng, length):
    marks = rng.choice(np.array([0, 1, IGNORED], np.uint8), length, p=[0.6, 0.3, 0.1])
    marks[0] = 1
    return marks


def hit_exactly(edges):
    """Every border as float32, its neighbours, zeros of both signs, and what lies outside."""
    near = np.asarray(edges, np.float64)
    near = near[np.abs(near) < 3e38].astype(np.float32)
    around = [near, np.nextafter(near, np.float32(-9)), np.nextafter(near, np.float32(9))]
    return np.concatenate([*around, np.array([0.0, -0.0, -5, 5, 3e38, -3e38, 1e-45], np.float32)])


@pytest.mark.parametrize("edges", EDGES.values(), ids=EDGES.keys())
@pytest.mark.parametrize("length", LENGTHS)
def test_native_histogram_is_the_reference(native, length, edges, rng, threads):
    scores = rng.random(length).astype(np.float32)
    special = hit_exactly(edges)
    scores = rng.permutation(np.concatenate([scores, special]))[: length if length > 1 else None]
    marks = marked(rng, len(scores))
    found = histogram(scores, marks, edges, threads=threads)
    np.testing.assert_array_equal(found.counts, reference.histogram(scores, marks, np.asarray(edges, float)))
    assert found.counts.dtype == np.int64
    assert found.low == min(scores.min(), 0)
    assert found.high == max(scores.max(), 0)
    assert found.ignored == (marks == IGNORED).sum()


@pytest.mark.parametrize("edges", EDGES.values(), ids=EDGES.keys())
def test_native_histogram_of_no_score_beyond_a_border(native, edges):
    """Where scores end at a border, and begin at the first, bins are found in another way than elsewhere."""
    borders = np.asarray(edges, np.float64)
    special = hit_exactly(edges)
    with np.errstate(over="ignore"):
        ends = borders.astype(np.float32)
    for end in ends[1 :: max(1, len(ends) // 30)]:
        scores = special[(special >= borders[0]) & (special <= end)]
        marks = (np.arange(len(scores)) % 2).astype(np.uint8)
        expected = reference.histogram(scores, marks, borders)
        np.testing.assert_array_equal(histogram(scores, marks, edges).counts, expected)


def test_counts_of_several_threads_add_up(native, rng):
    scores, marks = rng.random(SHARED).astype(np.float32), marked(rng, SHARED)
    scores[-1], scores[0] = -2, 7
    found = histogram(scores, marks, THOUSAND, threads=3)
    np.testing.assert_array_equal(found.counts, reference.histogram(scores, marks, THOUSAND))
    assert (found.low, found.high, found.ignored) == (-2, 7, (marks == IGNORED).sum())
    for place in (0, SHARED // 2 + 5, SHARED - 1):
        spoiled, strange = scores.copy(), marks.copy()
        spoiled[place], strange[place] = np.nan, 7
        with pytest.raises(ValueError, match="scores must be finite"):
            histogram(spoiled, marks, THOUSAND, threads=3)
        with pytest.raises(ValueError, match="marks must be 0, 1 or 255"):
            histogram(scores, strange, THOUSAND, threads=3)


@pytest.mark.parametrize("edges", EDGES.values(), ids=EDGES.keys())
def test_each_bin_by_its_definition(edges, rng, dtype):
    scores = hit_exactly(edges).astype(dtype)
    marks = marked(rng, len(scores))
    borders = np.asarray(edges, np.float64)
    expected = np.zeros((2, len(borders) - 1), np.int64)
    for score, mark in zip(scores.astype(np.float64), marks, strict=True):
        for i in range(len(borders) - 1):
            last = i == len(borders) - 2 and score == borders[-1]
            if mark <= 1 and (borders[i] <= score < borders[i + 1] or last):
                expected[mark, i] += 1
    np.testing.assert_array_equal(histogram(scores, marks, edges).counts, expected)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-4, 4), min_size=2, max_size=12, unique=True),
    st.lists(st.tuples(st.floats(-4, 4, width=32), st.sampled_from([0, 1, IGNORED])), max_size=30),
)
def test_histograms_of_any_borders(edges, pairs):
    borders = np.sort(np.array(edges))
    scores = np.array([score for score, _ in pairs], np.float32)
    marks = np.array([mark for _, mark in pairs], np.uint8)
    np.testing.assert_array_equal(
        histogram(scores, marks, borders).counts, reference.histogram(scores, marks, borders)
    )


@settings(max_examples=100, deadline=None)
@given(
    st.floats(-1e3, 0, allow_subnormal=False) | st.just(0.0),
    st.floats(1e-6, 1e3),
    st.integers(1, 300),
    st.lists(st.floats(0.5, 1e6), max_size=3),
    st.integers(0, 2**32),
)
def test_evenly_spaced_borders_and_some_beyond(first, step, count, beyond, seed):
    even = first + step * np.arange(count + 1)
    edges = np.unique(np.append(even, even[-1] + np.cumsum(beyond)))
    near = edges.astype(np.float32)
    around = np.concatenate(
        [near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf))]
    )
    rng = np.random.default_rng(seed)
    between = rng.uniform(edges[0], edges[-1], 200).astype(np.float32)
    for low, high in ((edges[0], even[-1]), (edges[0], edges[-1]), (-np.inf, np.inf)):
        scores = np.concatenate([around, between])
        scores = scores[(scores >= low) & (scores <= high)]
        marks = rng.choice(np.array([0, 1, IGNORED], np.uint8), len(scores))
        np.testing.assert_array_equal(
            histogram(scores, marks, edges).counts, reference.histogram(scores, marks, edges)
        )


def test_the_benchmarks_borders_and_their_neighbours(native):
    """All scores in [0, 1], where the bins are found by arithmetic."""
    even = np.arange(0, 1, 0.001).astype(np.float32)[1:]
    scores = np.concatenate(
        [even, np.nextafter(even, np.float32(0)), np.nextafter(even, np.float32(1)), [0, 1]]
    )
    scores = np.tile(scores.astype(np.float32), 3)
    marks = np.repeat(np.array([0, 1, IGNORED], np.uint8), len(scores) // 3)
    edges = np.append(np.arange(0, 1, 0.001), [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(
        histogram(scores, marks, edges).counts, reference.histogram(scores, marks, edges)
    )


def spread(kind, rng, length):
    if kind == "uniform":
        return rng.random(length)
    if kind == "few values":
        return rng.integers(0, 5, length) / 4
    if kind == "constant":
        return np.full(length, 0.5)
    if kind == "one bucket":  # the same first bits: the rest is told apart within a bucket
        return 1 + rng.integers(0, 1 << 13, length) * 2.0**-23
    if kind == "all magnitudes":
        return rng.choice([-1, 1], length) * 10.0 ** rng.uniform(-44, 38, length)
    return rng.choice([0.0, -0.0, 1e-45, -1e-45], length)  # both zeros are one score


@pytest.mark.parametrize(
    "kind", ["uniform", "few values", "constant", "one bucket", "all magnitudes", "around zero"]
)
@pytest.mark.parametrize("length", LENGTHS)
def test_native_precision_is_the_reference(native, length, kind, rng, threads):
    scores, marks = spread(kind, rng, length).astype(np.float32), marked(rng, length)
    found = average_precision(scores, marks, threads=threads)
    assert abs(found - reference.average_precision(scores, marks)) < 1e-13


@pytest.mark.parametrize("kind", ["few values", "one bucket", "all magnitudes"])
def test_several_threads_give_the_same_precision(native, kind, rng):
    scores, marks = spread(kind, rng, SHARED).astype(np.float32), marked(rng, SHARED)
    found = average_precision(scores, marks, threads=3)
    assert found == average_precision(scores, marks, threads=1)
    assert abs(found - reference.average_precision(scores, marks)) < 1e-11


SOME = st.one_of(
    st.sampled_from([0.0, -0.0, 0.5, 1.0, 1e-45, -3e38]),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(SOME, st.sampled_from([0, 1, IGNORED])), min_size=1, max_size=60))
def test_precision_depends_on_the_order_alone(pairs):
    scores = np.array([score for score, _ in pairs], np.float32)
    marks = np.array([mark for _, mark in pairs], np.uint8)
    marks[0] = 1
    _, places = np.unique(scores, return_inverse=True)
    found = average_precision(scores, marks)
    assert found == pytest.approx(average_precision(places.astype(np.float32), marks), abs=1e-14)
    assert found == pytest.approx(average_precision(scores.astype(np.float64), marks), abs=1e-14)
    assert found == pytest.approx(reference.average_precision(scores, marks), abs=1e-14)
    assert 0 < found <= 1


def test_shapes_strides_and_types_of_marks(rng, strided, dtype):
    scores, marks = rng.random((3, 7, 5)).astype(dtype), rng.integers(0, 2, (3, 7, 5))
    for own in (marks, marks.astype(bool), marks.astype(np.uint8), marks.astype(np.int8), strided(marks)):
        assert average_precision(strided(scores), own) == average_precision(scores.ravel(), marks.ravel())
        np.testing.assert_array_equal(
            histogram(strided(scores), own, [0, 0.5, 1]).counts.sum(axis=1), [(marks == 0).sum(), marks.sum()]
        )


def test_what_is_ignored_does_not_count(rng, dtype):
    scores, marks = rng.random(500).astype(dtype), rng.choice([0, 1, IGNORED], 500)
    kept = marks != IGNORED
    assert average_precision(scores, marks) == average_precision(scores[kept], marks[kept])


def test_no_scores(dtype):
    nothing = histogram(np.zeros(0, dtype), np.zeros(0, np.uint8), [0, 1])
    assert (nothing.counts.tolist(), nothing.low, nothing.high, nothing.ignored) == ([[0], [0]], 0, 0, 0)
    with pytest.raises(ValueError, match="without positives there is no recall"):
        average_precision(np.zeros(0, dtype), np.zeros(0, np.uint8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.zeros(3, int)}, "scores must be float32 or float64, got int64"),
        ({"scores": [0.0, 0, 0]}, "scores must be float32 or float64"),
        ({"scores": np.array([0, np.nan, 0])}, "scores must be finite"),
        ({"scores": np.array([0, np.inf, 0], np.float32)}, "scores must be finite"),
        ({"scores": np.array([0, 0, -np.inf], np.float32)}, "scores must be finite"),
        ({"marks": [0, 1]}, r"marks must be whole numbers of shape \(3,\), got int64 \(2,\)"),
        ({"marks": [0.0, 1.0, 1.0]}, "marks must be whole numbers"),
        ({"marks": [0, 1, 2]}, "marks must be 0, 1 or 255"),
        ({"marks": [0, 1, -1]}, "marks must be 0, 1 or 255"),
        ({"marks": [0, 1, 257]}, "marks must be 0, 1 or 255"),
        ({"marks": np.array([0, 1, 254], np.uint8)}, "marks must be 0, 1 or 255"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("asked", [average_precision, histogram], ids=["precision", "histogram"])
def test_errors_name_what_is_wrong(asked, change, message):
    arguments = {"scores": np.zeros(3, np.float32), "marks": [0, 1, 1]} | change
    if asked is histogram:
        arguments["edges"] = [0, 1]
    with pytest.raises(ValueError, match=message):
        asked(**arguments)


def test_precision_needs_a_positive(dtype):
    with pytest.raises(ValueError, match="marks must hold a 1"):
        average_precision(np.zeros(3, dtype), [0, 0, IGNORED])


@pytest.mark.parametrize("edges", [[0], [], [1, 0], [0, 0], [0, np.nan], [[0, 1]]], ids=str)
def test_edges_must_rise(edges):
    with pytest.raises(ValueError, match="edges must rise, and be at least two"):
        histogram(np.zeros(3), np.zeros(3, np.uint8), edges)
