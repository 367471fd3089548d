"""MaxBoxAcc and MaxBoxAccV2: the specification's vectors, borders followed slowly, and OpenCV's contours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from camrt.errors import InputError
from camrt.evaluation import max_box_accuracy
from camrt.evaluation.metrics.box_accuracy import (
    DELTAS,
    THRESHOLDS,
    box_accuracy,
    intersection_over_union,
    overlaps,
    to_8bit,
)
from camrt.kernels.resampling import bilinear
from helpers.oracles.box_accuracy import accuracy, borders, enclosed, overlaps_at_thresholds


def contours(saliency: Any, boxes: Any, *, largest: bool = False) -> Any:
    """The benchmark's way: a threshold, OpenCV's contours and their boxes, a thousand times."""
    cv2 = pytest.importorskip("cv2")
    levels = (saliency * 255).astype(np.uint8)
    height, width = levels.shape
    best: list[float] = []
    known: dict[int, float] = {}
    for threshold in THRESHOLDS:
        limit = int(threshold * levels.max())
        if limit in known:  # the same image of black and white once more
            best.append(known[limit])
            continue
        _, above = cv2.threshold(levels, limit, 255, cv2.THRESH_BINARY)
        found, _ = cv2.findContours(above, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        if largest and len(found):
            found = [max(found, key=cv2.contourArea)]
        rows = [(0, 0, 0, 0)] if not len(found) else []
        for contour in found:
            x, y, w, h = cv2.boundingRect(contour)
            rows.append((x, y, min(x + w, width - 1), min(y + h, height - 1)))
        known[limit] = max(overlap(row, box) for row in rows for box in boxes.tolist())
        best.append(known[limit])
    return np.array(best)


def overlap(a: Any, b: Any) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0]) + 1
    tall = min(a[3], b[3]) - max(a[1], b[1]) + 1
    common = max(wide, 0) * max(tall, 0)
    return common / ((a[2] - a[0] + 1) * (a[3] - a[1] + 1) + (b[2] - b[0] + 1) * (b[3] - b[1] + 1) - common)


def rings(side: int) -> Any:
    """Rings in the holes of rings, each less bright, around a dot."""
    r, c = np.mgrid[:side, :side]
    depth = np.minimum(np.minimum(r, side - 1 - r), np.minimum(c, side - 1 - c))
    return np.where(depth % 2 == 1, 1 - depth / side, 0.1)


def thin(side: int) -> Any:
    """Lines, crosses of pixels that touch at corners, and dots: contours that enclose nothing."""
    lines = np.zeros((side, side))
    lines[1, 1:-2] = lines[3:-1, 2] = 1
    lines[range(3, side - 1), range(4, side)] = 0.5
    lines[-1, 0] = 0.75
    return lines


def diamond(side: int) -> Any:
    """A ring one pixel thick, whose hole's border runs through the same pixels."""
    r, c = np.mgrid[:side, :side] - side // 2
    return (np.abs(r) + np.abs(c) == side // 2 - 1) * 1.0


PATTERNS = {"rings": rings, "thin": thin, "diamond": diamond}


def test_the_specifications_map() -> None:
    saliency = np.zeros((1, 6, 6))
    saliency[0, 1:3, 1:3] = 1
    saliency[0, 4, 4] = 0.5
    small, dot = np.array([[1, 1, 3, 3]]), np.array([[4, 4, 5, 5]])
    assert overlaps(saliency, [small])[0, [0, 250, 500, 999]].tolist() == [1, 1, 1, 1]
    assert overlaps(saliency, [dot])[0, [0, 250]].tolist() == [1, 1]
    assert overlaps(saliency, [dot])[0, 500] == 0  # 127 is not above 127
    tight = np.array([[1, 1, 2, 2]])
    assert overlaps(saliency, [tight])[0, 500] == pytest.approx(4 / 9)
    found = max_box_accuracy(saliency, [tight])
    assert found.by_delta.tolist() == [1, 0, 0]
    assert found.value == pytest.approx(1 / 3)
    # the dot's contour is there as well, but the square encloses more
    assert overlaps(saliency, [dot], contours="largest")[0, 0] == pytest.approx(
        intersection_over_union(small, dot)
    )


def test_the_specifications_overlap() -> None:
    assert intersection_over_union(np.array([[1, 2, 5, 6]]), np.array([[3, 1, 4, 5]]))[0, 0] == 8 / 27


def test_a_map_that_is_its_box_is_found_whole_only_at_the_border() -> None:
    for box, expected in (([2, 2, 5, 5], 16 / 25), ([4, 4, 7, 7], 1.0)):
        saliency = np.zeros((1, 8, 8))
        saliency[0, box[1] : box[3] + 1, box[0] : box[2] + 1] = 1
        assert overlaps(saliency, [np.array([box])]).max() == pytest.approx(expected)


@pytest.mark.parametrize("largest", [False, True], ids=["all", "largest"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_against_borders_followed_slowly(pattern: str, largest: bool) -> None:
    saliency = PATTERNS[pattern](9)
    boxes = [[1, 1, 8, 8], [3, 3, 6, 6], [4, 4, 5, 5], [2, 3, 3, 8], [0, 8, 1, 8]]
    for box in boxes:
        found = overlaps(saliency[None], [[box]], contours="largest" if largest else "all")[0]
        assert found.tolist() == overlaps_at_thresholds(to_8bit(saliency[None])[0].tolist(), [box], largest)


@settings(max_examples=80, deadline=None)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 7), st.integers(1, 7)),
               elements=st.sampled_from([0, 1 / 3, 0.5, 0.75, 1])),
    hnp.arrays(np.int64, (2, 2, 2), elements=st.integers(-1, 7)),
)  # fmt: skip
def test_small_maps_against_borders_followed_slowly(saliency: Any, corners: Any) -> None:
    boxes = np.sort(corners, axis=1).reshape(-1, 4)
    levels = to_8bit(saliency[None])[0].tolist()
    for largest in (False, True):
        found = overlaps(saliency[None], [boxes], contours="largest" if largest else "all")
        assert found[0].tolist() == overlaps_at_thresholds(levels, boxes.tolist(), largest)


def test_a_data_set_against_the_definition() -> None:
    rng = np.random.default_rng(11)
    maps = np.round(rng.random((7, 6, 5)) ** 2, 1)
    corner = rng.integers(0, 4, (7, 2, 2))
    boxes = [np.concatenate([c, c + rng.integers(0, 4, (2, 2))], axis=1) for c in corner]
    slow = [
        overlaps_at_thresholds(to_8bit(m[None])[0].tolist(), b.tolist())
        for m, b in zip(maps, boxes, strict=True)
    ]
    for deltas in (DELTAS, (0.5,), (0.1, 0.9)):
        assert max_box_accuracy(maps, boxes, deltas).value == pytest.approx(accuracy(slow, deltas), abs=1e-15)
    first = [
        overlaps_at_thresholds(to_8bit(m[None])[0].tolist(), b.tolist(), True)
        for m, b in zip(maps, boxes, strict=True)
    ]
    found = max_box_accuracy(maps, boxes, (0.5,), contours="largest")
    assert found.value == pytest.approx(accuracy(first, (0.5,)), abs=1e-15)
    assert found.images == 7


@pytest.mark.peers
def test_the_slow_borders_are_opencvs() -> None:
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(5)
    masks = [(rng.random(rng.integers(1, 10, 2)) < share).astype(np.uint8) for share in (0.3, 0.6, 0.8) * 60]
    masks += [(PATTERNS[name](9) > 0.2).astype(np.uint8) for name in PATTERNS]
    for mask in masks:
        theirs = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)[0]
        own = [np.array(line)[:, ::-1] for line in borders(mask)]
        assert sorted(
            (*line.min(axis=0), *line.max(axis=0), enclosed(line.tolist())) for line in own
        ) == sorted(
            (*line[:, 0].min(axis=0), *line[:, 0].max(axis=0), cv2.contourArea(line)) for line in theirs
        )


@pytest.mark.peers
@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_against_opencv(pattern: str) -> None:
    saliency = PATTERNS[pattern](15)
    boxes = np.array([[3, 3, 12, 12]])
    for largest in (False, True):
        found = overlaps(saliency[None], [boxes], contours="largest" if largest else "all")
        assert np.array_equal(found[0], contours(saliency, boxes, largest=largest))


@pytest.mark.peers
@settings(max_examples=25, deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 12)),
               elements=st.sampled_from([0, 0.25, 0.5, 0.75, 1])),
    hnp.arrays(np.int64, (2, 2, 2), elements=st.integers(0, 11)),
)  # fmt: skip
def test_plateaus_against_opencv(saliency: Any, corners: Any) -> None:
    boxes = np.sort(corners, axis=1).reshape(-1, 4)
    for largest in (False, True):
        found = overlaps(saliency[None], [boxes], contours="largest" if largest else "all")
        assert np.array_equal(found[0], contours(saliency, boxes, largest=largest))


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["noise", "smooth", "rectified"])
def test_large_maps_against_opencv(kind: str) -> None:
    rng = np.random.default_rng(4)
    if kind == "noise":
        saliency = rng.random((50, 64)).astype(np.float32)
    else:
        saliency = bilinear(rng.standard_normal((7, 7)).astype(np.float32), (112, 96))
        saliency = np.maximum(saliency, 0) if kind == "rectified" else saliency - saliency.min()
    saliency = saliency / saliency.max()
    boxes = np.array([[5, 8, 40, 30], [20, 3, 60, 45]])
    for largest in (False, True):
        found = overlaps(saliency[None], [boxes], contours="largest" if largest else "all")
        assert np.array_equal(found[0], contours(saliency, boxes, largest=largest))


def test_one_threshold_for_the_whole_data_set() -> None:
    """Two maps whose best thresholds differ: no threshold finds both."""
    one, two = np.zeros((10, 10)), np.zeros((10, 10))
    one[:, :] = 0.3
    one[2:6, 2:6] = 1
    two[2:6, 2:6] = 0.3
    two[2, 2] = 1
    boxes = [np.array([[2, 2, 6, 6]])] * 2
    assert overlaps(np.stack([one, two]), boxes).max(axis=1).tolist() == [1, 1]
    assert max_box_accuracy(np.stack([one, two]), boxes, (0.9,)).value == 0.5


def test_thresholds_may_be_chosen_on_other_maps() -> None:
    best = np.zeros((2, 1000))
    best[0, 10], best[1, 500:600] = 0.8, 0.6
    chosen = box_accuracy(best[:1])
    assert chosen.by_delta.tolist() == [1, 1, 1]
    assert box_accuracy(best[1:], validation=chosen).value == 0
    assert box_accuracy(best[1:]).by_delta.tolist() == [1, 1, 0]
    with pytest.raises(InputError, match="chosen for deltas"):
        box_accuracy(best, (0.5,), validation=chosen)


def test_thresholds_of_a_validation_split_never_do_better() -> None:
    rng = np.random.default_rng(12)
    maps = rng.random((20, 9, 9))
    corner = rng.integers(0, 6, (20, 1, 2))
    boxes = [np.concatenate([c, c + 3], axis=1) for c in corner]
    chosen = max_box_accuracy(maps[:10], boxes[:10])
    held_out = max_box_accuracy(maps[10:], boxes[10:], validation=chosen)
    own = max_box_accuracy(maps[10:], boxes[10:])
    assert held_out.chosen.tolist() == chosen.chosen.tolist()
    assert (held_out.by_delta <= own.by_delta).all()
    assert held_out.by_delta.tolist() == [own.rates[i, t] for i, t in enumerate(chosen.chosen)]
    assert max_box_accuracy(maps[:10], boxes[:10], validation=chosen).value == chosen.value


def test_a_higher_overlap_is_reached_less_often_and_more_boxes_help() -> None:
    rng = np.random.default_rng(13)
    maps = rng.random((6, 8, 8)).astype(np.float32)
    boxes = [np.array([[1, 1, 5, 5], [2, 0, 7, 3]])] * 6
    found = max_box_accuracy(maps, boxes, (0.2, 0.4, 0.6))
    assert (np.diff(found.rates, axis=0) <= 0).all()
    one, both = overlaps(maps, [own[:1] for own in boxes]), overlaps(maps, boxes)
    assert (both >= one).all()
    assert np.array_equal(both, overlaps(maps, boxes, threads=1))


def test_maps_are_cut_to_eight_bits() -> None:
    assert to_8bit(np.array([[[0, 0.5, 0.999, 1]]])).tolist() == [[[0, 127, 254, 255]]]
    assert to_8bit(np.array([[[True, False]]])).tolist() == [[[255, 0]]]
    assert to_8bit(np.array([[[0, 1]]])).tolist() == [[[0, 255]]]
    assert to_8bit(np.zeros((0, 3, 4))).shape == (0, 3, 4)


def test_a_constant_map_finds_the_corner_alone() -> None:
    found = overlaps(np.zeros((1, 5, 5)), [np.array([[0, 0, 1, 1]])])
    assert (found == 0.25).all()


@pytest.mark.parametrize(
    ("maps", "boxes", "message"),
    [
        (np.zeros((5, 5)), [[[0, 0, 1, 1]]], "maps must be"),
        (np.full((1, 5, 5), 1.1), [[[0, 0, 1, 1]]], "lie in"),
        (np.full((1, 5, 5), np.nan), [[[0, 0, 1, 1]]], "finite"),
        (np.zeros((1, 5, 5)), [], "need 1 arrays"),
        (np.zeros((1, 5, 5)), [np.zeros((0, 4), int)], r"boxes\[0\]"),
        (np.zeros((1, 5, 5)), [[[0.5, 0, 1, 1]]], "whole numbers"),
        (np.zeros((1, 5, 5)), [[[3, 0, 1, 1]]], "ends before it begins"),
        (np.zeros((0, 5, 5)), [], "no maps"),
        (np.zeros((1, 0, 5)), [[[0, 0, 1, 1]]], "maps must be"),
        (np.zeros((1, 5, 5), complex), [[[0, 0, 1, 1]]], "real numbers"),
        (np.full((1, 5, 5), -0.1), [[[0, 0, 1, 1]]], "lie in"),
        (np.zeros((1, 5, 5)), [[0, 0, 1, 1]], r"\(n, 4\)"),
    ],
)
def test_bad_input(maps: Any, boxes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        max_box_accuracy(maps, boxes)


def test_bad_contours() -> None:
    with pytest.raises(InputError, match="must be 'all' or 'largest'"):
        overlaps(np.zeros((1, 5, 5)), [[[0, 0, 1, 1]]], contours="outer")  # type: ignore[arg-type]


@pytest.mark.parametrize("deltas", [(), (0.0,), (1.5,), (float("nan"),)])
def test_bad_deltas(deltas: Any) -> None:
    with pytest.raises(InputError, match="deltas"):
        box_accuracy(np.zeros((1, 1000)), deltas)
