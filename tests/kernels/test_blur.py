import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.kernels.blur import blur, reference
from helpers.tolerances import assert_close

BORDERS = ["mirror", "zero"]
# images, then the number of weights; those that reach beyond the image are for zeros alone
SIZES = [
    ((1, 1, 1, 1), 1),
    ((2, 3, 7, 5), 3),
    ((2, 3, 7, 5), 9),
    ((1, 1, 63, 2), 3),
    ((1, 2, 2, 63), 3),
    ((1, 2, 1, 6), 5),
    ((3, 3, 31, 63), 31),
    ((2, 3, 224, 224), 11),
]


CASES = [
    (size, taps, border)
    for size, taps in SIZES
    for border in BORDERS
    if border == "zero" or taps // 2 < min(size[2:])
]


@pytest.mark.parametrize(("size", "taps", "border"), CASES, ids=str)
def test_native_agrees_with_reference(native, size, taps, border, normal, rng, poisoned, threads, strided):
    images = normal(*size)
    weights = rng.standard_normal(taps)  # not symmetric: a reversed order would show
    expected = poisoned(*size)
    reference.blur(images, weights, border, expected)
    found = blur(strided(images), weights, border, threads=threads)
    assert found.dtype == images.dtype
    assert found.flags.c_contiguous
    assert_close(found, expected)


@pytest.mark.parametrize("border", BORDERS)
def test_reference_agrees_with_scipy(border, normal, rng, poisoned, dtype):
    ndimage = pytest.importorskip("scipy.ndimage")
    images, weights = normal(2, 2, 13, 17), rng.standard_normal(7)
    out = poisoned(*images.shape)
    reference.blur(images, weights, border, out)
    mode = {"mirror": "mirror", "zero": "constant"}[border]
    expected = images.astype(np.float64)
    for axis in (2, 3):
        expected = ndimage.correlate1d(expected, weights, axis, mode=mode)
    assert_close(out, expected, dtype)


@pytest.mark.parametrize("border", BORDERS)
def test_a_symmetric_blur_is_the_convolution_with_the_square_of_its_weights(border, rng):
    ndimage = pytest.importorskip("scipy.ndimage")
    half = rng.random(4)
    weights = np.concatenate([half, half[2::-1]])
    images = rng.standard_normal((1, 1, 11, 9))
    mode = {"mirror": "mirror", "zero": "constant"}[border]
    expected = ndimage.convolve(images[0, 0], np.outer(weights, weights), mode=mode)
    assert_close(blur(images, weights, border)[0, 0], expected)


def test_float32_is_computed_in_float64(rng):
    images = (1 + 1e-3 * rng.standard_normal((1, 1, 40, 40))).astype(np.float32)
    weights = np.array([-1.0, 2, -1]) * 2.0**20  # cancels nearly everything
    wide = blur(images.astype(np.float64), weights, "zero")
    np.testing.assert_allclose(blur(images, weights, "zero"), wide, rtol=2.0**-23, atol=1e-9)


def test_what_is_not_finite_spreads_as_far_as_the_weights_reach():
    images = np.ones((1, 1, 9, 9), np.float32)
    images[0, 0, 4, 2] = np.nan
    found = blur(images, [1.0, 2, 3], "zero")[0, 0]
    inside = np.zeros((9, 9), bool)
    inside[3:6, 1:4] = True
    np.testing.assert_array_equal(np.isnan(found), inside)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 9), st.integers(0, 99))
def test_weights_that_add_up_to_one_keep_a_constant_and_the_range(height, width, reach, seed):
    reach = min(reach, height - 1, width - 1)
    rng = np.random.default_rng(seed)
    weights = rng.random(2 * reach + 1) + 1e-3
    weights /= weights.sum()
    assert_close(
        blur(np.full((1, 1, height, width), 3.0), weights, "mirror"), np.full((1, 1, height, width), 3.0)
    )
    images = rng.random((1, 1, height, width))
    for border, low in (("mirror", images.min()), ("zero", 0.0)):
        found = blur(images, weights, border)
        assert found.min() >= low - 1e-12
        assert found.max() <= images.max() + 1e-12


def test_one_weight_of_one_changes_nothing(normal):
    images = normal(2, 1, 3, 4)
    found = blur(images, [1.0], "mirror")
    np.testing.assert_array_equal(found, images)
    assert not np.shares_memory(found, images)


def test_no_images():
    assert blur(np.zeros((0, 3, 4, 4)), [1.0, 1, 1], "zero").shape == (0, 3, 4, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((3, 8, 8))}, r"images must have the axes \(N, C, H, W\)"),
        ({"images": np.zeros((1, 3, 8, 8), np.uint8)}, "images must be an array of float32 or float64"),
        ({"weights": np.ones((3, 3))}, r"weights must have the axes \(any\), got shape \(3, 3\)"),
        ({"weights": [0.5, 0.5]}, "weights must be odd in number, got 2"),
        ({"weights": []}, "weights must be odd in number, got 0"),
        ({"weights": np.ones(17)}, "17 weights reach beyond images of 8 x 9"),
        ({"border": "reflect"}, "border must be 'mirror' or 'zero', got 'reflect'"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_name_what_is_wrong(change, message):
    arguments = {"images": np.zeros((1, 3, 8, 9)), "weights": [1.0, 2, 1], "border": "mirror"}
    with pytest.raises(ValueError, match=message):
        blur(**(arguments | change))
