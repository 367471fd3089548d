import numpy as np
import pytest
import torch

from camrt.kernels.masked_batch import gpu, reference
from helpers.tolerances import assert_close

ORDERS = ["upsample-first", "normalise-first"]
SIZES = [(1, 1, 4, 4), (7, 5, 63, 31), (5, 9, 3, 2), (2, 3, 1, 1), (1, 6, 9, 33), (14, 14, 65, 64)]


def case(rng, h, w, height, width, n=2, k=3, c=3, b=7):
    a = rng.standard_normal((n, k, h, w)).astype(np.float32)
    x = rng.standard_normal((n, c, height, width)).astype(np.float32)
    return a, x, rng.integers(0, n, b), rng.integers(0, k, b)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("sizes", "align"), [*((s, False) for s in SIZES), (SIZES[1], True), (SIZES[3], True)], ids=str
)
def test_agrees_with_reference(sizes, align, order, rng, tensor, poisoned, rounded, kind, layout):
    a, x, batch_index, channel = case(rng, *sizes)
    a[0, 1] = 0.3
    a[1, 2, 0, 0] = np.nan
    a[1, 0, -1, -1] = np.inf
    batch_index[:3], channel[:3] = [0, 1, 1], [1, 2, 0]
    options = {"order": order, "align_corners": align, "epsilon": 1e-3}
    out = poisoned((len(batch_index), *x.shape[1:]), kind, layout)
    flags = gpu.masked_batch(
        tensor(a, kind), tensor(x, kind, layout), tensor(batch_index), tensor(channel), out, **options
    )
    wide, seen = rounded(a, kind), rounded(x, kind)
    expected = np.full(out.shape, np.nan)
    wanted = reference.masked_batch(wide, seen, batch_index, channel, expected, **options)
    assert flags.dtype == torch.bool
    assert flags.tolist() == wanted.tolist()
    assert not out[:3].any()
    # Near a map whose range is small next to its values, float32 loses what float64 keeps.
    assert_close(out.double().cpu().numpy(), expected, kind, factor=4)


def test_any_strides_are_read(rng, tensor, poisoned):
    a, x, batch_index, channel = case(rng, 7, 5, 31, 33)
    outs = [poisoned((len(batch_index), *x.shape[1:]), "float32") for _ in range(2)]
    for out, gaps in zip(outs, (False, True), strict=True):
        gpu.masked_batch(
            tensor(a, gaps=gaps), tensor(x, gaps=gaps), tensor(batch_index), tensor(channel), out
        )
    assert torch.equal(*outs)


@pytest.mark.parametrize("order", ORDERS)
def test_a_range_that_overflows_is_no_mask(order, tensor, poisoned):
    a = np.array([[[[-3e38, 3e38]]]], np.float32)
    out = poisoned((1, 1, 4, 4), "float32")
    index = tensor(np.array([0]))
    assert gpu.masked_batch(
        tensor(a), tensor(np.ones((1, 1, 4, 4), np.float32)), index, index, out, order=order
    ).all()
    assert not out.any()


def test_masks_reach_both_ends(rng, tensor, poisoned):
    a = rng.standard_normal((1, 20, 7, 7)).astype(np.float32)
    out = poisoned((20, 1, 30, 41), "float32")
    channel = np.arange(20)
    gpu.masked_batch(
        tensor(a), tensor(np.ones((1, 1, 30, 41), np.float32)), tensor(0 * channel), tensor(channel), out
    )
    flat = out.flatten(1)
    assert (flat.amin(1) == 0).all()
    assert (flat.amax(1) - 1).abs().max() <= 3e-7


def test_the_extremes_are_where_they_are_looked_for(rng):
    """Over every axis, the least and greatest of all samples are among the chosen ones."""
    from camrt.kernels.resampling import bilinear
    from camrt.kernels.resampling_gpu import extreme_pixels

    for h, w, height, width, align in [(7, 7, 224, 224, False), (5, 3, 17, 40, True), (9, 8, 4, 5, False)]:
        rows = extreme_pixels(h, height, align, torch.device("cpu")).numpy()
        columns = extreme_pixels(w, width, align, torch.device("cpu")).numpy()
        assert len(rows) <= min(2 * h, height)
        up = bilinear(rng.standard_normal((50, h, w)), (height, width), align)
        some = up[:, rows][:, :, columns]
        np.testing.assert_allclose(some.max((1, 2)), up.max((1, 2)), rtol=1e-14)
        np.testing.assert_allclose(some.min((1, 2)), up.min((1, 2)), rtol=1e-14)


def test_empty_batch(tensor, poisoned):
    none = tensor(np.zeros(0, np.int64))
    a, x = tensor(np.ones((1, 1, 2, 2), np.float32)), tensor(np.ones((1, 3, 8, 8), np.float32))
    assert gpu.masked_batch(a, x, none, none, poisoned((0, 3, 8, 8), "float32")).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"activations": torch.zeros(2, 3, 4)},
            r"activations must have the axes \(N, K, h, w\), got shape \(2, 3, 4\)",
        ),
        (
            {"activations": torch.zeros(2, 3, 4, 4).double()},
            "activations must be a tensor of float32, float16 or bf",
        ),
        ({"images": np.zeros((2, 3, 8, 8))}, "images must be a tensor of .* got ndarray"),
        ({"images": torch.zeros(1, 3, 8, 8)}, "images must hold 2 images like activations, got 1"),
        ({"images": torch.zeros(2, 3, 8, 0), "out": torch.zeros(2, 3, 8, 0)}, "must not be empty"),
        ({"batch_index": torch.zeros(2)}, "batch_index must be a tensor of int32 or int64, got torch.flo"),
        ({"channel": torch.zeros(3).long()}, r"channel must have shape \(2\), got \(3,\)"),
        ({"out": torch.zeros(2, 3, 8, 9)}, r"out must have shape \(2, 3, 8, 8\), got \(2, 3, 8, 9\)"),
        ({"out": torch.zeros(2, 3, 8, 16)[..., ::2]}, "out must be contiguous or channels-last, got strides"),
        ({"order": "neither"}, "order must be 'upsample-first' or 'normalise-first', got 'neither'"),
        ({"epsilon": -1.0}, "epsilon must be finite and not negative, got -1.0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_name_what_is_wrong(change, message):
    arguments = {
        "activations": torch.zeros(2, 3, 4, 4),
        "images": torch.zeros(2, 3, 8, 8),
        "batch_index": torch.zeros(2).long(),
        "channel": torch.zeros(2).long(),
        "out": torch.zeros(2, 3, 8, 8),
    }
    with pytest.raises(ValueError, match=message):
        gpu.masked_batch(**(arguments | change))


def test_out_may_not_be_what_is_read():
    x = torch.zeros(2, 3, 8, 8)
    index = torch.zeros(2).long()
    with pytest.raises(ValueError, match="out must not share memory"):
        gpu.masked_batch(torch.zeros(2, 3, 4, 4), x, index, index, x)
