import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.kernels.masked_batch import masked_batch, reference
from camrt.kernels.resampling import bilinear
from helpers.tolerances import assert_close

ORDERS = ["upsample-first", "normalise-first"]
SIZES = [
    (1, 1, 4, 4),
    (7, 7, 56, 56),
    (7, 5, 63, 31),
    (5, 9, 3, 2),
    (2, 3, 1, 1),
    (1, 6, 9, 63),
    (7, 7, 224, 224),
]


def case(normal, rng, h, w, height, width, n=3, k=4, c=3, b=9):
    return (
        normal(n, k, h, w),
        normal(n, c, height, width),
        rng.integers(0, n, b),
        rng.integers(0, k, b),
        (b, c, height, width),
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("align", [False, True], ids=["half-pixel", "align-corners"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_native_agrees_with_reference(native, sizes, align, order, normal, rng, poisoned, threads, strided):
    a, x, batch_index, channel, shape = case(normal, rng, *sizes)
    a[0, 1] = 0.3
    a[1, 2, 0, 0] = np.nan
    a[2, 0, -1, -1] = np.inf
    batch_index[:3], channel[:3] = [0, 1, 2], [1, 2, 0]
    out, expected = poisoned(*shape), poisoned(*shape)
    options = {"order": order, "align_corners": align, "epsilon": 1e-3}
    flags = masked_batch(strided(a), strided(x), batch_index, channel, out, threads=threads, **options)
    wanted = reference.masked_batch(a, x, batch_index, channel, expected, **options)
    assert flags.dtype == np.bool_
    assert flags.tolist() == wanted.tolist()
    assert flags[:3].all()
    assert not out[:3].any()
    assert_close(out, expected)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_reference_agrees_with_torch_in_float64(order, epsilon, normal, rng, poisoned, dtype):
    torch = pytest.importorskip("torch")
    a, x, batch_index, channel, shape = case(normal, rng, 7, 5, 31, 63)
    out = poisoned(*shape)
    flags = reference.masked_batch(
        a, x, batch_index, channel, out, order=order, align_corners=False, epsilon=epsilon
    )
    assert not flags.any()

    def up(m):
        return torch.nn.functional.interpolate(m[None, None], size=(31, 63), mode="bilinear")[0, 0]

    def unit(m):
        return (m - m.min()) / (m.max() - m.min() + epsilon)

    for b in range(len(batch_index)):
        m = torch.from_numpy(a[batch_index[b], channel[b]].astype(np.float64))
        mask = unit(up(m)) if order == ORDERS[0] else up(unit(m))
        assert_close(out[b], x[batch_index[b]].astype(np.float64) * mask.numpy(), dtype)


def test_range_is_over_the_samples():
    a = np.array([[[[0.0, 1.0, 0.0]]]])
    out = np.empty((1, 1, 1, 2))
    masked_batch(a, np.ones((1, 1, 1, 2)), [0], [0], out)
    u = bilinear(a, (1, 2))
    assert u.max() < 1
    # by symmetry both samples are equal, so the mask is one of zeros although the map is not constant
    assert not out.any()


@pytest.mark.parametrize("order", ORDERS)
def test_range_that_overflows_counts_as_constant(order):
    a = np.array([[[[-3e38, 3e38]]]], np.float32)
    out = np.full((1, 1, 4, 4), np.nan, np.float32)
    assert masked_batch(a, np.ones((1, 1, 4, 4), np.float32), [0], [0], out, order=order).all()
    assert not out.any()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_masks_of_ones_lie_in_the_unit_interval(h, w, height, width, seed):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((2, 2, h, w)).astype(np.float32)
    out = np.full((4, 1, height, width), np.nan, np.float32)
    constant = masked_batch(
        a, np.ones((2, 1, height, width), np.float32), [0, 0, 1, 1], [0, 1, 0, 1], out, threads=2
    )
    assert out.min() >= 0
    assert out.max() <= 1
    live = out[~constant].reshape(-1, height * width)
    assert (live.min(axis=1) == 0).all()
    assert (live.max(axis=1) == 1).all()


def test_empty_batch():
    out = np.empty((0, 3, 8, 8))
    assert masked_batch(np.ones((1, 1, 2, 2)), np.ones((1, 3, 8, 8)), [], [], out).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activations": np.zeros((2, 3, 4))}, r"activations must have the axes \(N, K, h, w\), got shape"),
        ({"activations": np.zeros((2, 3, 4, 4), int)}, "activations must be an array of float32 or float64"),
        ({"images": np.zeros((2, 3, 8, 8), np.float32)}, "images must be float64 like the other arrays"),
        ({"images": np.zeros((1, 3, 8, 8))}, "images must hold 2 images"),
        ({"batch_index": [0, 2]}, r"batch_index holds 2, outside 0\.\.1"),
        ({"batch_index": [0.0, 1.0]}, "batch_index must hold integers, got float64"),
        ({"channel": [0, -1]}, r"channel holds -1, outside 0\.\.2"),
        ({"channel": [0]}, r"channel must have shape \(2\), got \(1,\)"),
        ({"out": np.zeros((2, 3, 8, 9))}, r"out must have shape \(2, 3, 8, 8\), got \(2, 3, 8, 9\)"),
        ({"out": np.zeros((2, 3, 8, 8), np.float32)}, "out must be float64, got float32"),
        ({"out": np.zeros((2, 3, 8, 16))[..., ::2]}, "out must be C-contiguous"),
        ({"out": np.broadcast_to(0.0, (2, 3, 8, 8))}, "out must be C-contiguous"),
        ({"order": "neither"}, "order must be 'upsample-first' or 'normalise-first', got 'neither'"),
        ({"epsilon": -1.0}, "epsilon must be finite and not negative"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_name_what_is_wrong(change, message):
    arguments = {
        "activations": np.zeros((2, 3, 4, 4)),
        "images": np.zeros((2, 3, 8, 8)),
        "batch_index": [0, 1],
        "channel": [0, 2],
        "out": np.zeros((2, 3, 8, 8)),
    }
    with pytest.raises(ValueError, match=message):
        masked_batch(**(arguments | change))


def test_out_may_not_overlap_or_be_read_only():
    x = np.zeros((2, 3, 8, 8))
    with pytest.raises(ValueError, match="out must not overlap"):
        masked_batch(np.zeros((2, 3, 4, 4)), x, [0, 1], [0, 1], x)
    out = np.zeros_like(x)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writeable"):
        masked_batch(np.zeros((2, 3, 4, 4)), x, [0, 1], [0, 1], out)
