import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.kernels.rank_one import rank_one, reference
from helpers.tolerances import assert_close

# (N, K, F, L)
SHAPES = [(1, 1, 1, 1), (3, 7, 63, 1), (2, 5, 9, 35), (2, 3, 4, 63), (2, 3, 4000, 49)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_native_agrees_with_reference(native, shape, normal, rng, poisoned, threads, strided):
    n, k, f, length = shape
    base, weight, a = normal(n, f, length), normal(k, f), normal(n, k, length)
    batch_index, channel = rng.integers(0, n, 9), rng.integers(0, k, 9)
    out, expected = poisoned(9, f, length), poisoned(9, f, length)
    rank_one(strided(base), strided(weight), strided(a), batch_index, channel, out, threads=threads)
    reference.rank_one(base, weight, a, batch_index, channel, expected)
    assert_close(out, expected)


def test_reference_agrees_with_loops(normal, rng, poisoned, dtype):
    base, weight, a = normal(2, 4, 5), normal(3, 4), normal(2, 3, 5)
    batch_index, channel = rng.integers(0, 2, 6), rng.integers(0, 3, 6)
    out = poisoned(6, 4, 5)
    reference.rank_one(base, weight, a, batch_index, channel, out)
    expected = np.empty(out.shape)
    for b, f, position in np.ndindex(out.shape):
        n, k = batch_index[b], channel[b]
        expected[b, f, position] = float(base[n, f, position]) - float(weight[k, f]) * float(
            a[n, k, position]
        )
    assert_close(out, expected, dtype)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(1, 70), st.integers(1, 20), st.integers(0, 99))
def test_equals_the_layer_without_the_channel(k, f, length, seed):
    rng = np.random.default_rng(seed)
    weight, a = rng.standard_normal((k, f)), rng.standard_normal((1, k, length))
    base = np.einsum("kf,nkl->nfl", weight, a)
    out = np.full((k, f, length), np.nan)
    rank_one(base, weight, a, np.zeros(k, int), np.arange(k), out, threads=2)
    for channel in range(k):
        without = a.copy()
        without[0, channel] = 0
        layer = np.einsum("kf,nkl->nfl", weight, without)[0]
        assert np.abs(out[channel] - layer).max() <= 1e-12 * np.abs(base).max() + 1e-13


def test_errors_name_what_is_wrong():
    base, weight, a, out = np.zeros((1, 4, 5)), np.zeros((3, 4)), np.zeros((1, 3, 5)), np.zeros((1, 4, 5))
    with pytest.raises(ValueError, match=r"weight must have shape \(K, 4\) to match base, got \(3, 6\)"):
        rank_one(base, np.zeros((3, 6)), a, [0], [0], out)
    with pytest.raises(ValueError, match=r"activations must have shape \(1, 3, 5\), got \(1, 3, 1\)"):
        rank_one(base, weight, a[..., :1], [0], [0], out)
    with pytest.raises(ValueError, match=r"batch_index holds 1, outside 0\.\.0"):
        rank_one(base, weight, a, [1], [0], out)
    with pytest.raises(ValueError, match="out must not overlap"):
        rank_one(base, weight, a, [0], [0], base)
