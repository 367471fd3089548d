"""Deletion and insertion: RISE's constants and orders."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from camrt.errors import InputError
from camrt.evaluation.metrics.curves import (
    area_under_curve,
    insertion_baseline,
    ranks_of,
    rise_blur_weights,
    step_pixel_counts,
)


def test_rises_blur() -> None:
    weights = rise_blur_weights()
    kernel = np.outer(weights, weights)
    assert kernel[5, 5] == pytest.approx(0.0088326, abs=5e-8)
    assert kernel[0, 0] == pytest.approx(0.0077366, abs=5e-8)
    assert kernel.sum() == pytest.approx(1)


def test_rises_blur_against_scipy() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    delta = np.zeros((11, 11))
    delta[5, 5] = 1
    kernel = ndimage.gaussian_filter(delta, 5)
    assert np.allclose(np.outer(rise_blur_weights(), rise_blur_weights()), kernel, atol=1e-15)
    image = np.random.default_rng(0).standard_normal((1, 2, 20, 17)).astype(np.float32)
    expected = [ndimage.convolve(plane.astype(float), kernel, mode="constant") for plane in image[0]]
    assert np.allclose(insertion_baseline(image)[0], expected, atol=1e-6)


def test_the_specifications_area() -> None:
    assert area_under_curve([1, 0.5, 0.25, 0]) == pytest.approx(0.41667, abs=1e-5)
    assert area_under_curve(np.full((3, 7), 0.3)) == pytest.approx([0.3] * 3)
    assert np.isnan(area_under_curve([1, np.nan, 0]))
    for few in ([1.0], 1.0, np.zeros((3, 1))):
        with pytest.raises(InputError, match="at least two"):
            area_under_curve(few)


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float64, st.integers(2, 30), elements=st.floats(0, 1)))
def test_areas_are_trapezia(curve: Any) -> None:
    steps = [(one + other) / 2 / (len(curve) - 1) for one, other in pairwise(curve)]
    assert area_under_curve(curve) == pytest.approx(sum(steps), abs=1e-12)
    assert area_under_curve(1 - curve) == pytest.approx(1 - sum(steps), abs=1e-12)
    assert area_under_curve(curve[::-1]) == pytest.approx(sum(steps), abs=1e-12)


def test_counts_end_with_all_pixels() -> None:
    assert step_pixel_counts(10, 4).tolist() == [0, 4, 8, 10]
    assert step_pixel_counts(8, 4).tolist() == [0, 4, 8]
    assert len(step_pixel_counts(224 * 224, 224)) == 225
    assert step_pixel_counts(3, 5).tolist() == [0, 3]
    with pytest.raises(InputError, match="step=0"):
        step_pixel_counts(8, 0)


def test_equal_pixels_go_in_row_major_order() -> None:
    ranks = ranks_of([[[0.5, 1.0, 0.5], [0.0, 0.5, 1.0]]])
    assert ranks.tolist() == [[2, 0, 3, 5, 4, 1]]
    for wrong in ([[[np.nan]]], [[[np.inf]]], [[1.0]]):
        with pytest.raises(InputError, match="finite"):
            ranks_of(wrong)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(1, 6)),
               elements=st.sampled_from([-1, -0.0, 0, 0.25, 1, 3e38])),
)  # fmt: skip
def test_ranks_against_a_sort_of_places(maps: Any) -> None:
    ranks = ranks_of(maps)
    assert ranks.dtype == np.int64
    for own, saliency in zip(ranks, maps, strict=True):
        places = sorted(range(saliency.size), key=lambda place: (-saliency.flat[place], place))
        assert own[places].tolist() == list(range(saliency.size))


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int64, np.bool_, np.float16, np.float64])
def test_ranks_of_any_type(kind: Any) -> None:
    maps = np.array([[[0, 1, 0], [1, 1, 0]]]).astype(kind)
    assert ranks_of(maps).tolist() == [[3, 0, 4, 1, 2, 5]]
    if np.dtype(kind).kind in "iu":
        limits = np.array([[[0, np.iinfo(kind).max, np.iinfo(kind).min, 3]]], kind)
        assert ranks_of(limits).tolist() == [[2, 0, 3, 1]]


@pytest.mark.parametrize(("side", "sigma"), [(1, 0.5), (5, 0.7), (11, 5.0), (3, 20.0), (31, 1.0)])
def test_any_blur_adds_up_to_one_and_reads_the_same_both_ways(side: int, sigma: float) -> None:
    weights = rise_blur_weights(side, sigma)
    assert weights.shape == (side,)
    assert weights.sum() == pytest.approx(1, abs=1e-14)
    assert weights == pytest.approx(weights[::-1], abs=1e-15)
    ndimage = pytest.importorskip("scipy.ndimage")
    delta = np.zeros(side)
    delta[side // 2] = 1
    assert weights == pytest.approx(ndimage.gaussian_filter1d(delta, sigma), abs=1e-15)


def test_insertion_starts_darker_at_the_border() -> None:
    images = np.ones((2, 3, 30, 31), np.float32)
    blurred = insertion_baseline(images)
    assert blurred.dtype == np.float32
    assert blurred[:, :, 5:-5, 5:-5] == pytest.approx(1)
    weights = rise_blur_weights()
    assert blurred[0, 0, 0, 15] == pytest.approx(weights[5:].sum())
    assert blurred[1, 2, -1, -1] == pytest.approx(weights[5:].sum() ** 2)
    assert (images == 1).all()


@pytest.mark.parametrize(("side", "sigma"), [(4, 1.0), (0, 1.0), (-3, 1.0), (5, 0.0), (5, -2.0)])
def test_bad_blurs(side: int, sigma: float) -> None:
    with pytest.raises(InputError, match="a blur needs an odd side"):
        rise_blur_weights(side, sigma)
