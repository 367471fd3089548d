import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.kernels.saliency import MapFlag, saliency
from camrt.kernels.weighted_map import reference, weighted_map
from helpers.tolerances import assert_close

# (N, K, h, w, T, H, W)
SHAPES = [(1, 1, 1, 1, 1, 1, 1), (2, 37, 7, 5, 3, 31, 20), (3, 8, 2, 9, 1, 5, 4), (0, 4, 3, 3, 2, 6, 6)]
OPTIONS = {"mode": "native", "normalisation": "max", "relu": True, "align_corners": False}


@pytest.mark.parametrize(
    "options",
    [
        OPTIONS,
        OPTIONS | {"normalisation": "minmax", "relu": False},
        OPTIONS | {"mode": "library"},
        OPTIONS | {"align_corners": True},
    ],
    ids=["max", "signed-minmax", "library", "align-corners"],
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_reference(shape, options, normal, threads, strided, dtype):
    n, k, h, w, t, height, width = shape
    a, weights = normal(n, k, h, w), normal(n, t, k)
    got = weighted_map(strided(a), strided(weights), (height, width), threads=threads, **options)
    expected = reference.weighted_map(
        a.astype(np.float64), weights.astype(np.float64), (height, width), **options
    )
    assert [one.shape for one in got] == [(n, t, height, width), (n, t), (n, t, h, w)]
    assert [one.dtype for one in got] == [dtype, np.uint8, dtype]
    maps, flags, raw = got
    assert flags.tolist() == expected[1].tolist()
    # sums that cancel are divided by their greatest; library: a range of round-off size by 1e-7 or so
    assert_close(maps, expected[0], dtype, factor=16)
    assert_close(raw, expected[2], dtype)


def test_reference_agrees_with_loops(rng):
    a, weights = rng.standard_normal((2, 9, 3, 4)), rng.standard_normal((2, 3, 9))
    maps, flags, raw = reference.weighted_map(a, weights, (6, 8), **OPTIONS)
    for n, t in np.ndindex(2, 3):
        for i, j in np.ndindex(3, 4):
            wanted = math.fsum(weights[n, t, k] * a[n, k, i, j] for k in range(9))
            assert raw[n, t, i, j] == pytest.approx(wanted, rel=1e-12, abs=1e-12)
        (one,), (flag,) = saliency(raw[n, t][None], (6, 8))
        assert flags[n, t] == flag
        np.testing.assert_allclose(maps[n, t], one, rtol=1e-12, atol=1e-15)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 8), st.integers(1, 8), st.integers(0, 99))
def test_one_channel_at_a_time_is_its_own_map(t, k, h, w, seed):
    """With weights of 0 and one 1, the sums are activations."""
    rng = np.random.default_rng(seed)
    a, channel = rng.standard_normal((2, k, h, w)), rng.integers(0, k, (2, t))
    maps, flags, raw = weighted_map(a, np.eye(k)[channel], (9, 10))
    picked = np.take_along_axis(a, channel[:, :, None, None], 1)
    np.testing.assert_array_equal(raw, picked)
    expected = saliency(picked.reshape(-1, h, w), (9, 10))
    np.testing.assert_array_equal(maps.reshape(-1, 9, 10), expected[0])
    np.testing.assert_array_equal(flags.ravel(), expected[1])


def test_what_is_not_finite_stays_in_its_target(normal):
    a, weights = normal(2, 5, 3, 3), normal(2, 3, 5)
    a[0, 4, 1, 1], weights[1, 2, 0] = np.nan, np.inf
    maps, flags, raw = weighted_map(a, weights, (6, 6))
    wanted = np.zeros((2, 3), bool)
    wanted[0], wanted[1, 2] = True, True
    assert ((flags == MapFlag.NOT_FINITE) == wanted).all()
    assert not maps[wanted].any()
    assert np.isnan(raw[0, :, 1, 1]).all()


def test_no_channels_sum_to_nothing():
    maps, flags, raw = weighted_map(np.zeros((2, 0, 3, 3)), np.zeros((2, 1, 0)), (4, 5))
    assert (flags == MapFlag.CONSTANT).all()
    assert not maps.any()
    assert not raw.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activations": np.zeros((2, 3, 4))}, r"activations must have the axes \(N, K, h, w\), got shape"),
        ({"activations": np.zeros((2, 3, 0, 4))}, "activations must have at least one row and one column"),
        ({"weights": np.zeros((2, 1, 3), np.float32)}, "weights must be float64 like the other arrays"),
        ({"weights": np.zeros((2, 3))}, r"weights must have the axes \(N, T, K\), got shape \(2, 3\)"),
        ({"weights": np.zeros((2, 1, 4))}, r"weights must have shape \(2, T, 3\) .* got \(2, 1, 4\)"),
        ({"weights": np.zeros((1, 1, 3))}, r"weights must have shape \(2, T, 3\) .* got \(1, 1, 3\)"),
        ({"size": (0, 3)}, "size must have at least one row and one column, got 0 x 3"),
        ({"mode": "other"}, "mode must be 'native' or 'library', got 'other'"),
    ],
    ids=["axes", "empty", "type", "weight-axes", "channels", "images", "size", "mode"],
)
def test_errors_name_what_is_wrong(change, message):
    arguments = {"activations": np.zeros((2, 3, 4, 4)), "weights": np.zeros((2, 1, 3)), "size": (8, 8)}
    with pytest.raises(ValueError, match=message):
        weighted_map(**(arguments | change))
