import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from camrt.kernels.threshold_boxes import best_overlaps, largest_boxes, reference

SIDES = st.integers(1, 9)


@st.composite
def plateaus(draw):
    """A map of few values, so that components merge, nest and leave holes, and boxes near it."""
    shape = draw(st.tuples(SIDES, SIDES))
    values = draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 7, 254, 255])))
    corners = draw(hnp.arrays(np.int64, (draw(st.integers(1, 3)), 2, 2), elements=st.integers(-2, 10)))
    return values, np.sort(corners, axis=1).reshape(-1, 4)


@settings(max_examples=150, deadline=None)
@given(plateaus())
def test_native_overlaps_agree_with_every_threshold_by_itself(case):
    values, boxes = case
    owner = np.zeros(len(boxes), int)
    found = best_overlaps(values[None], boxes, owner)
    assert np.array_equal(found, reference.best_overlaps(values[None], boxes, owner))


@settings(max_examples=150, deadline=None)
@given(plateaus())
def test_native_largest_boxes_agree_with_every_threshold_by_itself(case):
    values, _ = case
    assert np.array_equal(largest_boxes(values[None]), reference.largest_boxes(values[None]))


def test_several_maps_keep_their_boxes(native, rng, threads):
    maps = rng.integers(0, 256, (9, 40, 33)).astype(np.uint8)
    corners = np.sort(rng.integers(0, 33, (14, 2, 2)), axis=1).reshape(-1, 4)
    owner = rng.integers(0, 9, 14)
    found = best_overlaps(maps, corners, owner, threads)
    for n in range(9):
        alone = best_overlaps(maps[n : n + 1], corners[owner == n], np.zeros((owner == n).sum(), int))
        assert np.array_equal(found[n], alone[0])
    assert not found[np.setdiff1d(np.arange(9), owner)].any()


def ring(side=9):
    """A square ring with a dot in its hole, and in the dot's place a hole again."""
    values = np.zeros((side, side), np.uint8)
    values[1:-1, 1:-1] = 200
    values[2:-2, 2:-2] = 50
    values[4, 4] = 100
    return values


def test_holes_and_what_lies_in_them_have_contours():
    whole = [[1, 1, 8, 8]]
    hole = [[1, 1, 8, 8], [4, 4, 5, 5]]
    best = best_overlaps(ring()[None], hole, [0, 0])
    assert best[0, 150] == 1.0  # the ring
    assert best[0, 75] == 1.0  # the ring, and the dot whose box is (4, 4, 5, 5)
    assert best_overlaps(ring()[None], [[4, 4, 5, 5]], [0])[0, 75] == 1.0
    assert best_overlaps(ring()[None], [[4, 4, 5, 5]], [0])[0, 150] < 0.5  # the dot is not above
    # the hole's border runs through the ring: one pixel out on each side, and one more right and below
    assert best_overlaps(ring()[None], [[1, 1, 8, 8]], [0])[0, 75] == 1.0
    assert largest_boxes(ring()[None])[0, 75].tolist() == whole[0]


def test_without_a_contour_there_is_a_box_of_zeros():
    best = best_overlaps(np.zeros((1, 4, 5), np.uint8), [[0, 0, 1, 1]], [0])
    assert (best == 0.25).all()
    assert not largest_boxes(np.zeros((1, 4, 5), np.uint8)).any()


@pytest.mark.parametrize(
    ("maps", "boxes", "owner", "message"),
    [
        (np.zeros((1, 2, 2), np.float32), [[0, 0, 1, 1]], [0], "maps must be uint8"),
        (np.zeros((1, 0, 2), np.uint8), [[0, 0, 1, 1]], [0], "maps must be uint8"),
        (np.zeros((1, 2, 2), np.uint8), [[1, 0, 0, 1]], [0], "x0 <= x1"),
        (np.zeros((1, 2, 2), np.uint8), [[0.5, 0, 1, 1]], [0], "whole numbers"),
        (np.zeros((1, 2, 2), np.uint8), [[0, 0, 1, 1]], [1], "owner holds 1"),
        (np.zeros((1, 2, 2), np.uint8), [[0, 0, 1 << 30, 1]], [0], "near the map"),
        (np.zeros((1, 1, 1 << 15), np.uint8), [[0, 0, 1, 1]], [0], "too large"),
    ],
)
def test_bad_arguments(maps, boxes, owner, message):
    with pytest.raises(ValueError, match=message):
        best_overlaps(maps, boxes, owner)
