import numpy as np
import pytest

from camrt.kernels.hidden_scores import FUNCTIONS, hidden_scores, reference
from helpers.tolerances import assert_close

# (N, K, F, T)
SHAPES = [(1, 1, 1, 1), (3, 7, 63, 2), (2, 5, 16, 1), (2, 3, 1000, 3)]
MANY_PRODUCTS = 8.0  # a sum over F, in another order


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_native_agrees_with_reference(native, shape, function, normal, rng, threads, strided):
    n, k, f, targets = shape
    base, weight, factor, rows = 3 * normal(n, f), normal(k, f), normal(9), normal(n, targets, f)
    batch_index, row = rng.integers(0, n, 9), rng.integers(0, k, 9)
    found = hidden_scores(
        strided(base), strided(weight), factor, batch_index, row, strided(rows), function, threads=threads
    )
    expected = reference.hidden_scores(base, weight, factor, batch_index, row, rows, function)
    spread = np.abs(rows).sum(axis=2).max() * np.abs(base).max()
    assert_close(np.append(found, spread), np.append(expected, spread), factor=MANY_PRODUCTS)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_reference_agrees_with_loops(function, normal, rng, dtype):
    base, weight, factor, rows = 3 * normal(2, 5), normal(3, 5), normal(6), normal(2, 2, 5)
    batch_index, row = rng.integers(0, 2, 6), rng.integers(0, 3, 6)
    found = reference.hidden_scores(base, weight, factor, batch_index, row, rows, function)

    def activate(z: float) -> float:
        if function == "silu":
            return z / (1 + np.exp(-z))
        return {
            "relu": max(z, 0.0),
            "relu6": min(max(z, 0.0), 6.0),
            "hard_swish": z * min(max(z + 3, 0.0), 6.0) / 6,
        }[function]

    expected = np.zeros(found.shape)
    for b, t in np.ndindex(found.shape):
        n = batch_index[b]
        for f in range(5):
            z = float(base[n, f]) - float(factor[b]) * float(weight[row[b], f])
            expected[b, t] += float(rows[n, t, f]) * activate(z)
    assert_close(found, expected, dtype, factor=MANY_PRODUCTS)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_not_finite_stays_in_its_result(native, function):
    base, weight = np.ones((1, 20), np.float32), np.ones((2, 20), np.float32)
    weight[1, 3] = np.nan
    rows = np.ones((1, 1, 20), np.float32)
    found = hidden_scores(base, weight, np.ones(2, np.float32), [0, 0], [0, 1], rows, function)
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()


def test_errors_name_what_is_wrong():
    base, weight, factor = np.zeros((1, 4)), np.zeros((3, 4)), np.zeros(2)
    rows = np.zeros((1, 2, 4))
    with pytest.raises(ValueError, match=r"weight must have shape \(K, 4\) to match base, got \(3, 6\)"):
        hidden_scores(base, np.zeros((3, 6)), factor, [0, 0], [0, 0], rows, "relu")
    with pytest.raises(ValueError, match=r"rows must have shape \(1, T, 4\), got \(1, 2, 5\)"):
        hidden_scores(base, weight, factor, [0, 0], [0, 0], np.zeros((1, 2, 5)), "relu")
    with pytest.raises(ValueError, match=r"row holds 3, outside 0\.\.2"):
        hidden_scores(base, weight, factor, [0, 0], [0, 3], rows, "relu")
    with pytest.raises(ValueError, match="function must be one of relu, relu6, hard_swish, silu, got 'gelu'"):
        hidden_scores(base, weight, factor, [0, 0], [0, 0], rows, "gelu")
