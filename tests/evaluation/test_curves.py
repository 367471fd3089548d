"""Deletion and insertion: RISE's constants and orders."""

from __future__ import annotations

import numpy as np
import pytest

from camrt.errors import InputError
from camrt.evaluation.curves import area_under, counts_of_steps, insertion_start, ranks_of, rise_weights
from camrt.evaluation.faithfulness import compactness, drops, increases


def test_rises_blur() -> None:
    weights = rise_weights()
    kernel = np.outer(weights, weights)
    assert kernel[5, 5] == pytest.approx(0.0088326, abs=5e-8)
    assert kernel[0, 0] == pytest.approx(0.0077366, abs=5e-8)
    assert kernel.sum() == pytest.approx(1)


def test_rises_blur_against_scipy() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    delta = np.zeros((11, 11))
    delta[5, 5] = 1
    kernel = ndimage.gaussian_filter(delta, 5)
    assert np.allclose(np.outer(rise_weights(), rise_weights()), kernel, atol=1e-15)
    picture = np.random.default_rng(0).standard_normal((1, 2, 20, 17)).astype(np.float32)
    expected = [ndimage.convolve(plane.astype(float), kernel, mode="constant") for plane in picture[0]]
    assert np.allclose(insertion_start(picture)[0], expected, atol=1e-6)


def test_the_specifications_area() -> None:
    assert area_under([1, 0.5, 0.25, 0]) == pytest.approx(0.41667, abs=1e-5)
    assert area_under(np.full((3, 7), 0.3)) == pytest.approx([0.3] * 3)
    with pytest.raises(InputError, match="at least two"):
        area_under([1.0])


def test_counts_end_with_all_pixels() -> None:
    assert counts_of_steps(10, 4).tolist() == [0, 4, 8, 10]
    assert counts_of_steps(8, 4).tolist() == [0, 4, 8]
    assert len(counts_of_steps(224 * 224, 224)) == 225
    with pytest.raises(InputError, match="step=0"):
        counts_of_steps(8, 0)


def test_equal_pixels_go_in_row_major_order() -> None:
    ranks = ranks_of([[[0.5, 1.0, 0.5], [0.0, 0.5, 1.0]]])
    assert ranks.tolist() == [[2, 0, 3, 5, 4, 1]]
    with pytest.raises(InputError, match="finite"):
        ranks_of([[[np.nan]]])


def test_the_specifications_drop_and_increase() -> None:
    before, after = [0.8, 0.5, 0.4], [0.4, 0.6, 0.4]
    assert 100 * drops(before, after).mean() == pytest.approx(16.67, abs=5e-3)
    assert 100 * increases(before, after).mean() == pytest.approx(33.33, abs=5e-3)


def test_what_is_undefined_is_nan() -> None:
    assert np.isnan(drops([0.0, 0.5, np.nan], [0.1, np.nan, 0.1])).all()
    assert np.isnan(increases([np.nan, 0.5], [0.1, np.nan])).all()
    assert increases([0.0], [0.1]).tolist() == [1.0]
    with pytest.raises(InputError, match=r"lie in \[0, 1\]"):
        drops([1.5], [0.1])
    with pytest.raises(InputError, match=r"must be \(N,\)"):
        drops([0.5], [0.1, 0.2])


def test_compactness_counts_cells() -> None:
    maps = np.zeros((2, 8, 8))
    maps[0, :2, :4] = 0.5
    assert compactness(maps).tolist() == [4.0, 0.0]
    with pytest.raises(InputError):
        compactness(maps - 1)
    with pytest.raises(InputError):
        compactness(maps[0])
