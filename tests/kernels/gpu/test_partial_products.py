import numpy as np
import pytest
import torch

from camrt.kernels.partial_products import gpu, reference
from helpers.tolerances import assert_close

# (N, F, K, L): images up to and past 16 and 32, features past a tile, sums of one term and of many.
SHAPES = [
    (1, 1, 1, 1), (2, 131, 7, 5), (17, 33, 20, 49), (35, 5, 3, 2), (3, 16, 70, 3), (1, 40, 2, 63),
    (5, 17, 1, 9), (4, 9, 30, 1),
]  # fmt: skip
# Sums of up to 70 products: 70 roundings in another order than NumPy's, of results as large as these sums.
FACTOR = 4


@pytest.fixture(params=["native", "prepared"])
def put(request, tensor):
    """Put a weight on the device in one of its two layouts."""
    if request.param == "native":
        return tensor
    return lambda array, kind: gpu.pack_weight(tensor(array, kind))


def case(rng, n, f, k, cells):
    return [rng.standard_normal(shape).astype(np.float32) for shape in ((f, k, cells), (n, k, cells))]


@pytest.mark.parametrize("by", ["cell", "channel"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_reference(shape, by, rng, put, tensor, poisoned, rounded, kind):
    n, f, k, cells = shape
    weight, u = case(rng, *shape)
    out = poisoned((n, cells if by == "cell" else k, f), kind)
    assert gpu.partial_products(put(weight, kind), tensor(u, kind), by=by, out=out) is out
    expected = reference.partial_products(rounded(weight, kind), rounded(u, kind), by=by)
    assert_close(out.double().cpu().numpy(), expected, kind, factor=FACTOR)


@pytest.mark.parametrize("by", ["cell", "channel"])
def test_a_new_result_is_float32(by, rng, put, tensor, rounded, kind):
    weight, u = case(rng, 3, 20, 17, 6)
    out = gpu.partial_products(put(weight, kind), tensor(u, kind), by=by)
    assert out.dtype == torch.float32
    expected = reference.partial_products(rounded(weight, kind), rounded(u, kind), by=by)
    assert_close(out.cpu().numpy(), expected, factor=FACTOR)


@pytest.mark.parametrize("by", ["cell", "channel"])
def test_types_may_differ(by, rng, put, tensor, rounded):
    weight, u = case(rng, 2, 20, 33, 6)
    out = gpu.partial_products(put(weight, "float16"), tensor(u, "float32"), by=by)
    assert_close(
        out.cpu().numpy(), reference.partial_products(rounded(weight, "float16"), u, by=by), factor=FACTOR
    )


@pytest.mark.parametrize("by", ["cell", "channel"])
def test_any_strides_are_read(by, rng, tensor):
    weight, u = case(rng, 2, 20, 33, 6)
    out = [
        gpu.partial_products(tensor(weight, gaps=gaps), tensor(u, gaps=gaps), by=by) for gaps in (False, True)
    ]
    assert torch.equal(*out)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("by", ["cell", "channel"])
def test_what_is_not_finite_stays_in_its_sums(by, value, rng, put, tensor):
    weight, u = case(rng, 3, 140, 40, 20)
    weight[130, 5, 3], u[1, 6, 4] = value, value
    u[2, 7, 5] = np.inf
    u[2, 8, 5], weight[3, 8, 5] = 0, np.inf
    with np.errstate(invalid="ignore"):
        expected = reference.partial_products(weight.astype(np.float64), u.astype(np.float64), by=by)
    assert not np.isfinite(expected).all()
    found = gpu.partial_products(put(weight, "float32"), tensor(u), by=by)
    assert_close(found.cpu().numpy(), expected, factor=FACTOR)


def test_both_splits_add_up_to_the_layer(rng, put, tensor):
    weight, u = case(rng, 4, 50, 30, 12)
    layer = u.reshape(4, -1).astype(np.float64) @ weight.reshape(50, -1).T.astype(np.float64)
    for by in ("cell", "channel"):
        split = gpu.partial_products(put(weight, "float32"), tensor(u), by=by)
        assert_close(split.double().sum(1).cpu().numpy(), layer, "float32", factor=FACTOR)


def test_prepared_is_the_same_weight(rng, tensor, kind):
    weight = tensor(rng.standard_normal((6, 5, 4)).astype(np.float32), kind)
    prepared = gpu.pack_weight(weight)
    assert torch.equal(prepared, weight)
    assert prepared.stride() == (1, 6, 30)
    assert prepared.untyped_storage().nbytes() == weight.untyped_storage().nbytes()


def test_no_images(tensor):
    weight, u = tensor(np.ones((4, 3, 2), np.float32)), tensor(np.ones((0, 3, 2), np.float32))
    assert gpu.partial_products(weight, u, by="cell").shape == (0, 2, 4)
    assert gpu.partial_products(weight, u, by="channel").shape == (0, 3, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(2, 12)}, r"weight must have the axes \(F, K, L\), got shape \(2, 12\)"),
        ({"weight": torch.zeros(2, 0, 4)}, r"weight must not be empty, got shape \(2, 0, 4\)"),
        ({"weight": np.zeros((2, 3, 4))}, "weight must be a tensor of .* got ndarray"),
        ({"u": torch.zeros(1, 3, 5)}, r"u must have shape \(N, 3, 4\), got \(1, 3, 5\)"),
        ({"by": "row"}, "by must be 'cell' or 'channel', got 'row'"),
        ({"out": torch.zeros(1, 3, 2)}, r"out must have shape \(1, 4, 2\), got \(1, 3, 2\)"),
        ({"out": torch.zeros(1, 4, 4)[..., ::2]}, "out must be contiguous or channels-last, got strides"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_name_what_is_wrong(change, message):
    arguments = {"weight": torch.zeros(2, 3, 4), "u": torch.zeros(1, 3, 4), "by": "cell"}
    with pytest.raises(ValueError, match=message):
        gpu.partial_products(**(arguments | change))


def test_out_may_not_be_what_is_read():
    weight = torch.zeros(4, 4, 1)
    with pytest.raises(ValueError, match="out must not share memory"):
        gpu.partial_products(weight, torch.zeros(1, 4, 1), by="channel", out=weight.view(1, 4, 4))
