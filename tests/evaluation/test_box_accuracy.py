"""MaxBoxAcc and MaxBoxAccV2: the specification's vectors, and OpenCV's contours at each threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from camrt.errors import InputError
from camrt.evaluation import max_box_accuracy
from camrt.evaluation.box_accuracy import THRESHOLDS, box_accuracy, intersection_over_union, overlaps
from camrt.kernels.resampling import bilinear


def contours(saliency: Any, boxes: Any, *, largest: bool = False) -> Any:
    """The benchmark's way: a threshold, OpenCV's contours and their boxes, a thousand times."""
    cv2 = pytest.importorskip("cv2")
    levels = (saliency * 255).astype(np.uint8)
    height, width = levels.shape
    best = []
    for threshold in THRESHOLDS:
        _, above = cv2.threshold(levels, int(threshold * levels.max()), 255, cv2.THRESH_BINARY)
        found, _ = cv2.findContours(above, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        if largest and len(found):
            found = [max(found, key=cv2.contourArea)]
        rows = [(0, 0, 0, 0)] if not len(found) else []
        for contour in found:
            x, y, w, h = cv2.boundingRect(contour)
            rows.append((x, y, min(x + w, width - 1), min(y + h, height - 1)))
        best.append(max(overlap(row, box) for row in rows for box in boxes.tolist()))
    return np.array(best)


def overlap(a: Any, b: Any) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0]) + 1
    tall = min(a[3], b[3]) - max(a[1], b[1]) + 1
    common = max(wide, 0) * max(tall, 0)
    return common / ((a[2] - a[0] + 1) * (a[3] - a[1] + 1) + (b[2] - b[0] + 1) * (b[3] - b[1] + 1) - common)


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


def test_the_specifications_overlap() -> None:
    assert intersection_over_union(np.array([[1, 2, 5, 6]]), np.array([[3, 1, 4, 5]]))[0, 0] == 8 / 27


def test_a_map_that_is_its_box_is_found_whole_only_at_the_border() -> None:
    for box, expected in (([2, 2, 5, 5], 16 / 25), ([4, 4, 7, 7], 1.0)):
        saliency = np.zeros((1, 8, 8))
        saliency[0, box[1] : box[3] + 1, box[0] : box[2] + 1] = 1
        assert overlaps(saliency, [np.array([box])]).max() == pytest.approx(expected)


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
    assert box_accuracy(best[1:], at=chosen).value == 0
    assert box_accuracy(best[1:]).by_delta.tolist() == [1, 1, 0]
    with pytest.raises(InputError, match="chosen for deltas"):
        box_accuracy(best, (0.5,), at=chosen)


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
    ],
)
def test_bad_input(maps: Any, boxes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        max_box_accuracy(maps, boxes)


@pytest.mark.parametrize("deltas", [(), (0.0,), (1.5,)])
def test_bad_deltas(deltas: Any) -> None:
    with pytest.raises(InputError, match="deltas"):
        box_accuracy(np.zeros((1, 1000)), deltas)
