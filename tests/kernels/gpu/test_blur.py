import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.kernels.blur import gpu, reference
from helpers.tolerances import assert_close

BORDERS = ["mirror", "zero"]
# images, then the number of weights; those that reach beyond the image are for zeros alone
SIZES = [
    ((1, 1, 1, 1), 1),
    ((2, 3, 7, 5), 3),
    ((1, 3, 7, 5), 9),
    ((1, 1, 63, 2), 3),
    ((1, 2, 2, 63), 3),
    ((1, 2, 1, 6), 5),
    ((1, 1, 9, 31), 17),
    ((1, 2, 17, 31), 31),
]
CASES = [
    (size, taps, border)
    for size, taps in SIZES
    for border in BORDERS
    if border == "zero" or taps // 2 < min(size[2:])
]


def expected_of(images, weights, border):
    out = np.full(images.shape, np.nan)
    reference.blur(images, np.asarray(weights, np.float64), border, out)
    return out


@pytest.mark.parametrize(("size", "taps", "border"), CASES, ids=str)
def test_agrees_with_reference(size, taps, border, rng, tensor, rounded, kind, layout):
    images = rng.standard_normal(size).astype(np.float32)
    weights = rng.standard_normal(taps)  # not symmetric: a reversed order would show
    weights /= np.abs(weights).sum()
    given = tensor(images, kind, layout)
    found = gpu.blur(given, weights, border)
    assert found.dtype == given.dtype
    assert found.stride() == torch.empty_like(given).stride()
    expected = expected_of(rounded(images, kind), weights, border)
    # Float32 sums differ by epsilons of the terms, which cancel where weights have both signs.
    assert_close(found.double().cpu().numpy(), expected, kind, factor=4 if kind == "float32" else 1)


@pytest.mark.parametrize("taps", [1, 3, 5, 7, 9, 11, 15, 19])
def test_any_number_of_weights(taps, rng, tensor):
    images = rng.standard_normal((1, 1, 20, 21)).astype(np.float32)
    weights = rng.random(taps)
    expected = expected_of(images.astype(np.float64), weights, "mirror")
    assert_close(gpu.blur(tensor(images), weights, "mirror").cpu().numpy(), expected)


@pytest.mark.parametrize("border", BORDERS)
def test_images_larger_than_a_tile(border, rng, tensor, layout, monkeypatch):
    monkeypatch.setattr(gpu, "TILE", (2, 4))
    images = rng.standard_normal((1, 2, 17, 6)).astype(np.float32)
    weights = rng.random(5)
    expected = expected_of(images.astype(np.float64), weights, border)
    assert_close(gpu.blur(tensor(images, layout=layout), weights, border).cpu().numpy(), expected)


def test_images_of_several_tiles_of_most_weights(rng, tensor):
    images = rng.standard_normal((1, 1, 133, 34)).astype(np.float32)
    weights = rng.random(31)
    expected = expected_of(images.astype(np.float64), weights, "mirror")
    assert_close(gpu.blur(tensor(images), weights, "mirror").cpu().numpy(), expected)


def test_any_strides_are_read(rng, tensor):
    images = rng.standard_normal((2, 3, 9, 12)).astype(np.float32)
    weights = [1.0, 2, 4]
    dense = gpu.blur(tensor(images), weights, "mirror")
    assert dense.is_contiguous()
    for read in (
        tensor(images, gaps=True),
        tensor(np.pad(images, ((0, 0), (0, 0), (1, 1), (2, 3))), layout="NHWC")[:, :, 1:-1, 2:-3],
        tensor(images.transpose(3, 1, 2, 0)).permute(3, 1, 2, 0),
        tensor(images[..., :1]).expand(-1, -1, -1, 12),
    ):
        found = gpu.blur(read, weights, "mirror")
        assert found.is_contiguous() or found.is_contiguous(memory_format=torch.channels_last)
        if read.stride(3):
            assert torch.equal(found, dense)
        else:
            assert torch.equal(found, gpu.blur(read.contiguous(), weights, "mirror"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("border", BORDERS)
def test_what_is_not_finite_spreads_exactly_as_far_as_the_weights_reach(value, border, tensor, layout):
    images = np.ones((1, 2, 23, 20), np.float32)
    images[0, 0, 17, 5] = value
    weights = [0.5, 0.0, 1.0, -0.25, 0.25]  # 0 times infinity is no number
    found = gpu.blur(tensor(images, layout=layout), weights, border).cpu().numpy()
    assert_close(found, expected_of(images.astype(np.float64), weights, border))
    wrong = np.zeros(images.shape, bool)
    wrong[0, 0, 15:20, 3:8] = True
    np.testing.assert_array_equal(~np.isfinite(found), wrong)


@pytest.mark.parametrize("border", BORDERS)
def test_everything_not_finite_goes_where_the_reference_has_it(border, rng, tensor):
    images = rng.standard_normal((1, 1, 36, 35)).astype(np.float32)
    images[rng.random(images.shape) < 0.02] = np.nan
    images[rng.random(images.shape) < 0.02] = np.inf
    images[0, 0, :2] = -np.inf
    weights = rng.random(7)
    expected = expected_of(images.astype(np.float64), weights, border)
    assert_close(gpu.blur(tensor(images), weights, border).cpu().numpy(), expected)


def test_weights_that_are_not_finite(rng, tensor):
    images = rng.standard_normal((1, 1, 6, 7)).astype(np.float32)
    for weights in ([1.0, np.nan, 1.0], [np.inf, 1.0, 1.0]):
        expected = expected_of(images.astype(np.float64), weights, "zero")
        assert_close(gpu.blur(tensor(images), weights, "zero").cpu().numpy(), expected)


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 5), st.integers(0, 99))
def test_weights_that_add_up_to_one_keep_a_constant_and_the_range(device, height, width, reach, seed):
    reach = min(reach, height - 1, width - 1)
    rng = np.random.default_rng(seed)
    weights = rng.random(2 * reach + 1) + 1e-3
    weights /= weights.sum()
    constant = torch.full((1, 1, height, width), 3.0, device=device)
    assert_close(gpu.blur(constant, weights, "mirror").cpu().numpy(), constant.cpu().numpy())
    images = torch.from_numpy(rng.random((1, 1, height, width), np.float32)).to(device)
    for border, low in (("mirror", images.min()), ("zero", 0.0)):
        found = gpu.blur(images, weights, border)
        assert found.min() >= low - 2e-6
        assert found.max() <= images.max() + 2e-6


def test_one_weight_of_one_changes_nothing(rng, tensor, kind):
    images = tensor(rng.standard_normal((2, 1, 3, 4)), kind)
    found = gpu.blur(images, [1.0], "mirror")
    assert torch.equal(found, images)
    assert found.data_ptr() != images.data_ptr()


def test_no_images():
    assert gpu.blur(torch.zeros(0, 3, 4, 4), [1.0, 1, 1], "zero").shape == (0, 3, 4, 4)
    assert gpu.blur(torch.zeros(1, 0, 4, 4), [1.0, 1, 1], "zero").shape == (1, 0, 4, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(3, 8, 8)}, r"images must have the axes \(N, C, H, W\)"),
        (
            {"images": torch.zeros(1, 3, 8, 8).double()},
            "images must be a tensor of float32, float16 or b",
        ),
        ({"images": np.zeros((1, 3, 8, 8))}, "images must be a tensor of .* got ndarray"),
        ({"weights": np.ones((3, 3))}, r"weights must have the axes \(any\), got shape \(3, 3\)"),
        ({"weights": [0.5, 0.5]}, "weights must be odd in number, got 2"),
        ({"weights": []}, "weights must be odd in number, got 0"),
        ({"weights": np.ones(17)}, "17 weights reach beyond images of 8 x 9"),
        ({"border": "reflect"}, "border must be 'mirror' or 'zero', got 'reflect'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_name_what_is_wrong(change, message):
    arguments = {"images": torch.zeros(1, 3, 8, 9), "weights": [1.0, 2, 1], "border": "mirror"}
    with pytest.raises(ValueError, match=message):
        gpu.blur(**(arguments | change))
