"""Annotations go where the preprocessing puts their pixels."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from camrt import Preprocessing
from camrt.errors import InputError
from camrt.evaluation.datasets.annotation_transforms import to_input_boxes, to_input_mask, to_wsol_boxes

WHOLE = Preprocessing(size=(10, 20))
CROP = Preprocessing(size=(8, 8), resize="crop", crop_fraction=0.5)


def test_the_specifications_box() -> None:
    # from an image 10 wide and 20 high to 35 × 10
    assert to_wsol_boxes([[1, 2, 4, 3]], (20, 10), Preprocessing(size=(10, 35))).tolist() == [[3, 1, 14, 1]]


def test_whole_numbers_stay_whole() -> None:
    """125 · (224/500) is a little less than 56 in floating point, and 125 · 224 / 500 is not."""
    steps = Preprocessing(size=(224, 224))
    sides = np.arange(0, 501, 125)
    boxes = np.stack([sides[:-1], sides[:-1], sides[1:], sides[1:]], axis=1)
    assert to_wsol_boxes(boxes, (500, 500), steps)[:, 0].tolist() == [0, 56, 112, 168]


def test_boxes_at_the_same_size_stay() -> None:
    boxes = [[3, 2, 7, 9], [0, 0, 20, 10]]
    assert to_input_boxes(boxes, (10, 20), WHOLE).tolist() == [[2, 3, 9, 7], [0, 0, 10, 20]]
    assert to_wsol_boxes(boxes, (10, 20), WHOLE).tolist() == boxes


def test_a_pixel_is_inside_when_its_middle_is() -> None:
    assert to_input_boxes([[2.4, 1.6, 4.6, 3.4]], (10, 20), WHOLE).tolist() == [[2, 2, 3, 5]]
    assert to_input_boxes([[2.6, 1.1, 2.7, 1.2]], (10, 20), WHOLE).tolist() == [[1, 2, 2, 3]]  # at least one
    # the fourth of nine pixels lies in the first of two
    assert to_input_boxes([[3, 0, 4, 9]], (9, 9), Preprocessing(size=(2, 2))).tolist() == [[0, 0, 2, 1]]


def test_what_a_crop_cuts_off_is_left_out() -> None:
    # an image of 16 × 16 is seen from 4 to 12
    boxes = [[0, 0, 4, 16], [2, 2, 6, 7], [12, 0, 16, 16], [0, 0, 16, 16]]
    assert to_input_boxes(boxes, (16, 16), CROP).tolist() == [[0, 0, 3, 2], [0, 0, 8, 8]]
    assert to_wsol_boxes(boxes[1:2], (16, 16), CROP).tolist() == [[0, 0, 2, 3]]


def test_a_crop_by_hand() -> None:
    """40 × 20 pixels: the short side to 10, the long one to 20; eight of each are cut out of the middle."""
    steps = Preprocessing(size=(8, 8), resize="crop", crop_fraction=0.8)
    # columns 2 to 18 and rows 12 to 28 of the image, two pixels to each of the input
    boxes = [[2, 12, 18, 28], [0, 0, 20, 12], [0, 28, 20, 40], [0, 0, 2, 40], [6, 20, 12, 23], [0, 10, 5, 14]]
    assert to_input_boxes(boxes, (40, 20), steps).tolist() == [[0, 0, 8, 8], [4, 2, 5, 5], [0, 0, 1, 1]]
    found = to_wsol_boxes(boxes, (40, 20), steps).tolist()
    # the benchmark's last pixels belong to the box: one that ends where the crop begins is still there
    assert found == [[0, 0, 8, 8], [0, 0, 8, 0], [0, 0, 0, 8], [2, 4, 5, 5], [0, 0, 1, 1]]


def lies_in(start: int, end: int, side: int, own: int) -> list[int]:
    """The pixels of `own` whose middles lie in [start, end) of `side`, without rounding."""
    middles = [Fraction(2 * pixel + 1, 2) * side / own for pixel in range(own)]
    return [pixel for pixel, middle in enumerate(middles) if start <= middle < end]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_middles_in_exact_fractions(data: Any) -> None:
    h, w, height, width = (data.draw(st.integers(1, 60)) for _ in range(4))
    ends = []
    for side in (h, w):
        start = data.draw(st.integers(0, side - 1))
        ends += [start, data.draw(st.integers(start + 1, side))]
    box = [[ends[2], ends[0], ends[3], ends[1]]]
    ((r0, c0, r1, c1),) = to_input_boxes(box, (h, w), Preprocessing(size=(height, width))).tolist()
    for (first, last), (start, end), side, own in (
        ((r0, r1), ends[:2], h, height), ((c0, c1), ends[2:], w, width),
    ):  # fmt: skip
        inside = lies_in(start, end, side, own)
        if inside:
            assert list(range(first, last)) == inside
        else:  # too small for any middle: one pixel, not further away than the next
            assert last - first == 1
            assert (first - 1) * side <= end * own
            assert start * own <= (last + 1) * side
    scaled = [[ends[2] * width // w, ends[0] * height // h, ends[3] * width // w, ends[1] * height // h]]
    assert to_wsol_boxes(box, (h, w), Preprocessing(size=(height, width))).tolist() == scaled


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.integers(1, 40),
    st.sampled_from(["squash", "crop"]), st.integers(0, 99),
)  # fmt: skip
def test_a_mask_has_the_value_of_the_pixel_under_each_middle(
    h: int, w: int, height: int, width: int, kind: Any, seed: int
) -> None:
    steps = Preprocessing(size=(height, width), resize=kind)
    mask = np.random.default_rng(seed).choice([0, 1, 255], (h, w)).astype(np.uint8)
    found = to_input_mask(mask, (h, w), steps)
    assert found.shape == (height, width)
    assert found.dtype == np.uint8
    left, upper, right, lower = steps.framing((h, w)).region.box
    rows = upper + (np.arange(height) + 0.5) * (lower - upper) / height
    columns = left + (np.arange(width) + 0.5) * (right - left) / width
    near = [np.abs(middles - np.round(middles)) < 1e-6 for middles in (rows, columns)]  # on an edge of pixels
    sure = ~(near[0][:, None] | near[1])
    under = mask[rows.astype(int).clip(0, h - 1)[:, None], columns.astype(int).clip(0, w - 1)]
    np.testing.assert_array_equal(found[sure], under[sure])


def test_a_mask_at_the_same_size_stays() -> None:
    mask = np.random.default_rng(1).choice([0, 1, 255], (10, 20)).astype(np.uint8)
    np.testing.assert_array_equal(to_input_mask(mask, (10, 20), WHOLE), mask)
    np.testing.assert_array_equal(to_input_mask(mask, (10, 20), Preprocessing(size=(20, 40)))[::2, ::2], mask)


def test_boxes_that_reach_beyond_the_image_are_cut() -> None:
    boxes = [[-5, -5, 3, 4], [15, 8, 30, 30]]
    assert to_input_boxes(boxes, (10, 20), WHOLE).tolist() == [[0, 0, 4, 3], [8, 15, 10, 20]]
    assert to_wsol_boxes(boxes, (10, 20), WHOLE).tolist() == [[0, 0, 3, 4], [15, 8, 20, 10]]
    assert to_input_boxes([[-5, -5, 0, 4], [20, 0, 22, 4]], (10, 20), WHOLE).shape == (0, 4)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(3, 60), st.integers(3, 60), st.integers(3, 40), st.integers(3, 40),
    st.sampled_from(["squash", "crop"]),
)  # fmt: skip
def test_boxes_and_masks_agree_with_the_image(h: int, w: int, height: int, width: int, kind: Any) -> None:
    """An image painted where its box is, seen through the preprocessing, is painted where the box goes."""
    steps = Preprocessing(size=(height, width), resize=kind, interpolation="nearest")
    mask = np.zeros((h, w), np.uint8)
    box = (w // 3, h // 3, 2 * w // 3 + 1, 2 * h // 3 + 1)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    seen = np.asarray(steps.view(Image.fromarray(mask * 255).convert("RGB")))[..., 0] > 0
    placed = to_input_mask(mask, (h, w), steps) == 1
    assert np.array_equal(seen, placed)
    found = np.zeros_like(placed)
    for r0, c0, r1, c1 in to_input_boxes([box], (h, w), steps):
        found[r0:r1, c0:c1] = True
    rows, columns = (np.abs(found.any(axis=a).sum() - placed.any(axis=a).sum()) for a in (1, 0))
    assert rows <= 1  # a pixel whose middle lies on the border may go either way
    assert columns <= 1
    whole = to_input_boxes([[0, 0, w, h]], (h, w), steps)
    assert whole.tolist() == [[0, 0, height, width]]


def test_bad_input() -> None:
    assert to_input_boxes([], (5, 5), WHOLE).shape == (0, 4)
    assert to_wsol_boxes(np.zeros((0, 4)), (5, 5), WHOLE).shape == (0, 4)
    for asked in (to_input_boxes, to_wsol_boxes):
        for wrong in ([[1, 2, 3]], [1, 2, 3, 4]):
            with pytest.raises(InputError, match="boxes must be"):
                asked(wrong, (5, 5), WHOLE)
    for box in ([4, 1, 3, 2], [np.nan, 0, 1, 1]):
        with pytest.raises(InputError, match="finite, with x0 <= x1"):
            to_input_boxes([box], (5, 5), WHOLE)
    with pytest.raises(InputError, match="a mask of"):
        to_input_mask(np.zeros((4, 5), np.uint8), (5, 5), WHOLE)
