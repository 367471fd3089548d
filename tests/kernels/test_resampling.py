import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from camrt.kernels.resampling import axis_table, bilinear
from helpers.tolerances import assert_close

SIZES = [(1, 1, 1, 1), (1, 1, 5, 3), (7, 5, 1, 1), (7, 7, 224, 224), (3, 63, 10, 7), (14, 14, 14, 14)]


@pytest.mark.parametrize("align", [False, True], ids=["half-pixel", "align-corners"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_bilinear_agrees_with_torch(sizes, align, normal, dtype):
    torch = pytest.importorskip("torch")
    h, w, height, width = sizes
    x = torch.from_numpy(normal(2, 3, h, w))
    actual = bilinear(x.numpy(), (height, width), align)

    def interpolate(values):
        return torch.nn.functional.interpolate(
            values, size=(height, width), mode="bilinear", align_corners=align, antialias=False
        ).numpy()

    assert actual.dtype == dtype
    assert_close(actual, interpolate(x.double()), dtype)
    # in float32 torch rounds the positions too, which go up to w
    assert_close(actual, interpolate(x), dtype, factor=max(1, w / 8))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 300), st.booleans())
@example(2, 1, True)
@example(1, 2, False)
def test_axis_table_stays_inside(n_in, n_out, align):
    lower, upper, t = axis_table(n_in, n_out, align)
    assert len(lower) == len(upper) == len(t) == n_out
    assert lower.min() >= 0
    assert upper.max() <= n_in - 1
    assert ((t >= 0) & (t <= 1)).all()
    assert (np.diff(lower + t) >= -1e-12).all()
    if align and n_out == 1:
        assert (lower[0], t[0]) == (0, 0)  # a single sample is the first input
    else:
        position = np.minimum(lower + t, n_in - 1)  # the last input has no upper neighbour
        assert_close(position, n_in - 1 - position[::-1], "float64", factor=10)


def test_constant_stays_exactly_constant(dtype):
    x = np.full((2, 5, 7), 0.1, dtype)
    assert (bilinear(x, (63, 31)) == dtype.type(0.1)).all()


@pytest.mark.parametrize(("shape", "size"), [((0, 3), (2, 2)), ((3, 3), (0, 2))], ids=["no-rows", "no-size"])
def test_empty_sizes_are_refused(shape, size):
    with pytest.raises(ValueError, match="at least one row and one column"):
        bilinear(np.zeros(shape), size)
