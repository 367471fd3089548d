import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.kernels.threshold_boxes import LEVELS, best_overlaps, largest_boxes, reference

SIZES = [(1, 1), (1, 9), (9, 1), (2, 2), (7, 5), (9, 11)]
KINDS = ["two values", "few values", "noise", "rings", "constant", "extremes"]


def example(kind, rng, height, width, n=3):
    shape = (n, height, width)
    if kind == "two values":
        return (255 * rng.integers(0, 2, shape)).astype(np.uint8)
    if kind == "few values":
        return rng.choice(np.array([0, 1, 127, 254, 255], np.uint8), shape)
    if kind == "noise":
        return rng.integers(0, 256, shape).astype(np.uint8)
    if kind == "rings":  # holes in holes
        r, c = np.mgrid[:height, :width]
        depth = np.minimum(np.minimum(r, height - 1 - r), np.minimum(c, width - 1 - c))
        return np.stack([np.where(depth % 2 == i % 2, 60 * (i + 1), 10 * i) for i in range(n)]).astype(
            np.uint8
        )
    if kind == "constant":
        return np.broadcast_to(np.array([0, 1, 255], np.uint8)[:n, None, None], shape).copy()
    return rng.choice(np.array([0, 255], np.uint8), shape, p=[0.2, 0.8])


def some_boxes(rng, height, width, count=7):
    """Inside, across the border and outside; the owners in no order, map 1 without any."""
    corner = rng.integers(-3, max(height, width) + 3, (count, 2))
    return np.concatenate([corner, corner + rng.integers(0, 8, (count, 2))], axis=1), rng.choice(
        [2, 0], count
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_native_overlaps_are_those_of_the_reference(native, size, kind, rng, threads, strided):
    maps = example(kind, rng, *size)
    boxes, owner = some_boxes(rng, *size)
    found = best_overlaps(strided(maps), boxes, owner, threads=threads)
    np.testing.assert_array_equal(found, reference.best_overlaps(maps, boxes, owner))
    assert not found[1].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_native_largest_boxes_are_those_of_the_reference(native, size, kind, rng, threads, strided):
    maps = example(kind, rng, *size)
    np.testing.assert_array_equal(
        largest_boxes(strided(maps), threads=threads), reference.largest_boxes(maps)
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 5), st.integers(0, 9999))
def test_small_maps_with_ties(height, width, values, seed):
    rng = np.random.default_rng(seed)
    maps = rng.choice(np.array([0, 255, 7, 254, 1], np.uint8)[:values], (1, height, width))
    boxes = some_boxes(rng, height, width, 2)[0]
    owner = [0, 0]
    np.testing.assert_array_equal(
        best_overlaps(maps, boxes, owner), reference.best_overlaps(maps, boxes, np.array(owner))
    )
    np.testing.assert_array_equal(largest_boxes(maps), reference.largest_boxes(maps))


def test_threads_and_the_order_of_boxes_change_nothing(native, rng):
    maps = rng.integers(0, 256, (40, 48, 33)).astype(np.uint8)
    boxes, _ = some_boxes(rng, 48, 33, 200)
    owner = rng.integers(0, 40, 200)
    found = best_overlaps(maps, boxes, owner, threads=1)
    shuffled = rng.permutation(200)
    np.testing.assert_array_equal(best_overlaps(maps, boxes[shuffled], owner[shuffled], threads=3), found)
    np.testing.assert_array_equal(largest_boxes(maps[:6], threads=1), largest_boxes(maps[:6], threads=3))


def test_a_dot_and_the_hole_in_a_ring():
    ring = np.zeros((1, 7, 7), np.uint8)
    ring[0, 1:6, 1:6] = 9
    ring[0, 2:5, 2:5] = 4
    ring[0, 3, 3] = 9
    # above 4 and below 9: the ring, its hole's border along the ring, and the dot in the middle
    alone = {"ring": (1, 1, 6, 6), "hole": (1, 1, 6, 6), "dot": (3, 3, 4, 4), "inner": (2, 2, 5, 5)}
    for name in ("ring", "hole", "dot"):
        assert best_overlaps(ring, [alone[name]], [0])[0, 4:9].tolist() == [1.0] * 5, name
    assert (best_overlaps(ring, [alone["inner"]], [0])[0, 4:9] < 1).all()
    # above 0 and below 4 the hole is filled; from 9 on nothing is left but (0, 0, 0, 0)
    assert best_overlaps(ring, [alone["dot"]], [0])[0, :4].tolist() == [4 / 36] * 4
    assert best_overlaps(ring, [(0, 0, 0, 0)], [0])[0, 9:].tolist() == [1.0] * (LEVELS - 9)


def test_the_last_of_several_largest_counts():
    maps = np.zeros((1, 8, 8), np.uint8)
    maps[0, 1:3, 1:3] = maps[0, 5:7, 4:6] = 200
    assert largest_boxes(maps)[0, :200].tolist() == [[4, 5, 6, 7]] * 200
    maps[0, 1, 3] = maps[0, 2, 3] = 100
    assert largest_boxes(maps)[0, :100].tolist() == [[1, 1, 4, 3]] * 100
    assert largest_boxes(maps)[0, 100:200].tolist() == [[4, 5, 6, 7]] * 100
    assert not largest_boxes(maps)[0, 200:].any()


def test_no_maps_and_no_boxes():
    assert best_overlaps(np.zeros((0, 2, 2), np.uint8), [], []).shape == (0, LEVELS)
    assert largest_boxes(np.zeros((0, 2, 2), np.uint8)).shape == (0, LEVELS, 4)
    assert not best_overlaps(np.ones((2, 2, 2), np.uint8), np.zeros((0, 4)), []).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": np.zeros((2, 3, 4))}, r"maps must be uint8 of shape \(N, H, W\), got float64 \(2, 3, 4\)"),
        ({"maps": np.zeros((3, 4), np.uint8)}, r"maps must be uint8 of shape \(N, H, W\)"),
        ({"maps": [[[1]]]}, "maps must be uint8 .* got list"),
        ({"maps": np.zeros((2, 0, 4), np.uint8)}, "maps must be uint8"),
        ({"maps": np.zeros((2, 1, 1 << 15), np.uint8)}, "maps of 1 x 32768 pixels are too large"),
        (
            {"boxes": np.zeros((2, 3), int)},
            r"boxes must be whole numbers of shape \(B, 4\), got int64 \(2, 3\)",
        ),
        ({"boxes": np.zeros((2, 4))}, "boxes must be whole numbers"),
        ({"boxes": [[0, 0, 1, 1], [2, 0, 1, 1]]}, "x0 <= x1 and y0 <= y1"),
        ({"boxes": [[0, 0, 1, 1], [0, 0, 1 << 30, 1]]}, "near the map"),
        ({"owner": [0, 2]}, r"owner holds 2, outside 0\.\.1"),
        ({"owner": [0]}, r"owner must have shape \(2\), got \(1,\)"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_name_what_is_wrong(change, message):
    arguments = {"maps": np.zeros((2, 3, 4), np.uint8), "boxes": [[0, 0, 1, 1]] * 2, "owner": [0, 1]}
    with pytest.raises(ValueError, match=message):
        best_overlaps(**(arguments | change))
    if "maps" in change or "threads" in change:
        with pytest.raises(ValueError, match=message):
            largest_boxes(change.get("maps", arguments["maps"]), threads=change.get("threads"))
