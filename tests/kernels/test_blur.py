import numpy as np
import pytest
from tolerances import assert_close

from camrt.kernels.blur import blur, reference


@pytest.mark.parametrize("border", ["mirror", "zero"])
@pytest.mark.parametrize("taps", [1, 3, 11])
@pytest.mark.parametrize("size", [(6, 6), (9, 31), (64, 20)], ids=str)
def test_native_agrees_with_reference(native, size, taps, border, normal, rng, threads, strided):
    pictures, weights = normal(2, 3, *size), rng.random(taps)
    out, expected = blur(strided(pictures), weights, border, threads=threads), np.empty_like(pictures)
    reference.blur(pictures, weights, border, expected)
    assert out.dtype == pictures.dtype
    assert_close(out, expected)


def test_a_blur_may_reach_beyond_a_picture_with_zeros_around_it(normal, rng):
    pictures, weights = normal(1, 1, 3, 2), rng.random(9)
    expected = np.empty_like(pictures)
    reference.blur(pictures, weights, "zero", expected)
    assert_close(blur(pictures, weights, "zero"), expected)
    with pytest.raises(ValueError, match="9 weights reach beyond"):
        blur(pictures, weights, "mirror")


@pytest.mark.parametrize(("border", "mode"), [("mirror", "mirror"), ("zero", "constant")])
def test_reference_agrees_with_scipy(border, mode, rng):
    ndimage = pytest.importorskip("scipy.ndimage")
    pictures, weights = rng.standard_normal((1, 1, 12, 9)), rng.random(5)
    expected = ndimage.convolve1d(pictures, weights[::-1], axis=2, mode=mode)
    expected = ndimage.convolve1d(expected, weights[::-1], axis=3, mode=mode)
    out = np.empty_like(pictures)
    reference.blur(pictures, weights, border, out)
    assert_close(out, expected)


@pytest.mark.parametrize(
    ("weights", "border", "message"),
    [([1.0, 1.0], "zero", "odd in number"), ([1.0], "wrap", "border must be"), ([[1.0]], "zero", "axes")],
)
def test_bad_arguments(weights, border, message):
    with pytest.raises(ValueError, match=message):
        blur(np.zeros((1, 1, 4, 4), np.float32), weights, border)
