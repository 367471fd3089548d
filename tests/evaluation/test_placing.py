"""Annotations go where the preprocessing puts their pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from camrt import Preprocessing
from camrt.errors import InputError
from camrt.evaluation.placing import benchmark_boxes, mask_on_grid, pixel_boxes

WHOLE = Preprocessing(size=(10, 20))
CROP = Preprocessing(size=(8, 8), resize="crop", crop_fraction=0.5)


def test_the_specifications_box() -> None:
    # from a picture 10 wide and 20 high to 35 × 10
    assert benchmark_boxes([[1, 2, 4, 3]], (20, 10), Preprocessing(size=(10, 35))).tolist() == [[3, 1, 14, 1]]


def test_whole_numbers_stay_whole() -> None:
    """125 · (224/500) is a little less than 56 in floating point, and 125 · 224 / 500 is not."""
    steps = Preprocessing(size=(224, 224))
    sides = np.arange(0, 501, 125)
    boxes = np.stack([sides[:-1], sides[:-1], sides[1:], sides[1:]], axis=1)
    assert benchmark_boxes(boxes, (500, 500), steps)[:, 0].tolist() == [0, 56, 112, 168]


def test_boxes_at_the_same_size_stay() -> None:
    boxes = [[3, 2, 7, 9], [0, 0, 20, 10]]
    assert pixel_boxes(boxes, (10, 20), WHOLE).tolist() == [[2, 3, 9, 7], [0, 0, 10, 20]]
    assert benchmark_boxes(boxes, (10, 20), WHOLE).tolist() == boxes


def test_a_pixel_is_inside_when_its_middle_is() -> None:
    assert pixel_boxes([[2.4, 1.6, 4.6, 3.4]], (10, 20), WHOLE).tolist() == [[2, 2, 3, 5]]
    assert pixel_boxes([[2.6, 1.1, 2.7, 1.2]], (10, 20), WHOLE).tolist() == [[1, 3, 2, 4]]  # at least one


def test_what_a_crop_cuts_off_is_left_out() -> None:
    # a picture of 16 × 16 is seen from 4 to 12
    boxes = [[0, 0, 4, 16], [2, 2, 6, 7], [12, 0, 16, 16], [0, 0, 16, 16]]
    assert pixel_boxes(boxes, (16, 16), CROP).tolist() == [[0, 0, 3, 2], [0, 0, 8, 8]]
    assert benchmark_boxes(boxes[1:2], (16, 16), CROP).tolist() == [[0, 0, 2, 3]]


@settings(max_examples=50, deadline=None)
@given(
    st.integers(3, 60), st.integers(3, 60), st.integers(3, 40), st.integers(3, 40),
    st.sampled_from(["squash", "crop"]),
)  # fmt: skip
def test_boxes_and_masks_agree_with_the_picture(h: int, w: int, height: int, width: int, kind: Any) -> None:
    """A picture painted where its box is, seen through the preprocessing, is painted where the box goes."""
    steps = Preprocessing(size=(height, width), resize=kind, interpolation="nearest")
    mask = np.zeros((h, w), np.uint8)
    box = (w // 3, h // 3, 2 * w // 3 + 1, 2 * h // 3 + 1)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    seen = np.asarray(steps.view(Image.fromarray(mask * 255).convert("RGB")))[..., 0] > 0
    placed = mask_on_grid(mask, (h, w), steps) == 1
    assert np.array_equal(seen, placed)
    found = np.zeros_like(placed)
    for r0, c0, r1, c1 in pixel_boxes([box], (h, w), steps):
        found[r0:r1, c0:c1] = True
    rows, columns = (np.abs(found.any(axis=a).sum() - placed.any(axis=a).sum()) for a in (1, 0))
    assert rows <= 1  # a pixel whose middle lies on the border may go either way
    assert columns <= 1
    whole = pixel_boxes([[0, 0, w, h]], (h, w), steps)
    assert whole.tolist() == [[0, 0, height, width]]


def test_bad_input() -> None:
    assert pixel_boxes([], (5, 5), WHOLE).shape == (0, 4)
    with pytest.raises(InputError, match="boxes must be"):
        pixel_boxes([[1, 2, 3]], (5, 5), WHOLE)
    with pytest.raises(InputError, match="a mask of"):
        mask_on_grid(np.zeros((4, 5), np.uint8), (5, 5), WHOLE)
