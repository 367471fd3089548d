import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.kernels.box_sums import box_sums, reference
from helpers.tolerances import assert_close

SHAPES = [(1, 1, 1, 1), (2, 7, 5, 3), (1, 7, 7, 63), (3, 4, 9, 129), (0, 3, 3, 4), (3, 9, 9, 256)]


def all_boxes(h, w, largest=99):
    return np.array(
        [
            (r, c, r + a, c + b)
            for a in range(1, min(h, largest) + 1)
            for b in range(1, min(w, largest) + 1)
            for r in range(h - a + 1)
            for c in range(w - b + 1)
        ]
    )


@pytest.mark.parametrize("largest", [1, 2, 99], ids=lambda n: f"sides-to-{n}")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_native_agrees_with_reference(native, shape, largest, normal, poisoned, threads, strided):
    cells = normal(*shape)
    boxes = all_boxes(*shape[1:3], largest)
    expected = poisoned(shape[0], len(boxes), shape[3])
    reference.box_sums(cells, boxes, expected)
    assert_close(box_sums(strided(cells), boxes, threads=threads), expected)
    assert_close(box_sums(cells, boxes.astype(np.int32)), expected)


def test_reference_agrees_with_loops(normal, poisoned, dtype):
    cells = normal(2, 4, 3, 5)
    boxes = all_boxes(4, 3)
    out = poisoned(2, len(boxes), 5)
    reference.box_sums(cells, boxes, out)
    for n, p, f in np.ndindex(out.shape):
        r0, c0, r1, c1 = boxes[p]
        total = math.fsum(float(cells[n, r, c, f]) for r in range(r0, r1) for c in range(c0, c1))
        assert out[n, p, f] == pytest.approx(total, rel=1e-6 if dtype == np.float32 else 1e-12, abs=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_stays_in_its_boxes(value, normal, threads):
    cells = normal(1, 5, 5, 70)
    cells[0, 1, 1, 65] = value
    boxes = all_boxes(5, 5)
    out = box_sums(cells, boxes, threads=threads)
    inside = (boxes[:, 0] <= 1) & (boxes[:, 2] > 1) & (boxes[:, 1] <= 1) & (boxes[:, 3] > 1)
    assert not np.isfinite(out[0, inside, 65]).any()
    assert np.isfinite(out[0, ~inside]).all()
    assert np.isfinite(out[0, :, :65]).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 70), st.integers(0, 99))
def test_halves_add_up(h, w, f, seed):
    cells = np.random.default_rng(seed).standard_normal((2, h, w, f))
    row = h // 2
    boxes = [(0, 0, h, w), *([(0, 0, row, w), (row, 0, h, w)] if row else [])]
    sums = box_sums(cells, boxes)
    assert_close(sums[:, 0], cells.sum(axis=(1, 2)), factor=10)  # another order of summation
    if row:
        assert_close(sums[:, 1] + sums[:, 2], sums[:, 0], factor=10)


def test_no_boxes():
    assert box_sums(np.zeros((2, 3, 3, 4)), np.empty((0, 4), int)).shape == (2, 0, 4)


@pytest.mark.parametrize(
    "box",
    [(0, 0, 0, 1), (1, 0, 1, 1), (-1, 0, 1, 1), (0, 0, 4, 1), (0, 2, 1, 1), (0, 0, 1, 6), (0, -1, 1, 1)],
    ids=str,
)
def test_boxes_must_lie_in_the_map(box):
    with pytest.raises(ValueError, match=r"boxes\[1\] is .* 0 <= r0 < r1 <= 3 and 0 <= c0 < c1 <= 5"):
        box_sums(np.zeros((1, 3, 5, 2)), [(0, 0, 1, 1), box])


def test_errors_name_what_is_wrong():
    cells = np.zeros((1, 3, 3, 2))
    with pytest.raises(ValueError, match=r"boxes must have shape \(P, 4\), got \(4,\)"):
        box_sums(cells, [0, 0, 1, 1])
    with pytest.raises(ValueError, match="boxes must hold integers, got float64"):
        box_sums(cells, [(0.0, 0.0, 1.0, 1.0)])
