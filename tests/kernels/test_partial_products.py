import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.kernels.partial_products import partial_products, reference
from helpers.tolerances import assert_close

# (N, F, K, L)
SHAPES = [
    (1, 1, 1, 1), (1, 33, 20, 49), (3, 16, 40, 35), (2, 5, 7, 63), (5, 17, 300, 1), (2, 3, 130, 16),
    (40, 10, 150, 49), (0, 4, 3, 2),
    (4, 300, 128, 49),
]  # fmt: skip


@pytest.mark.parametrize("by", ["cell", "channel"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_native_agrees_with_reference(native, shape, by, normal, threads, strided):
    n, f, k, cells = shape
    weight, u = normal(f, k, cells), normal(n, k, cells)
    weight.flags.writeable = False
    out = partial_products(weight, u, by=by, threads=threads)
    assert out.shape == (n, cells if by == "cell" else k, f)
    expected = reference.partial_products(weight.astype(np.float64), u.astype(np.float64), by=by)
    assert_close(out, expected)
    assert_close(out, reference.partial_products(weight, u, by=by))
    assert_close(partial_products(strided(weight), strided(u), by=by), expected, weight.dtype)


def test_reference_agrees_with_loops(normal, dtype):
    weight, u = normal(3, 4, 5), normal(2, 4, 5)
    cell = reference.partial_products(weight, u, by="cell")
    channel = reference.partial_products(weight, u, by="channel")
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    for n, f in np.ndindex(2, 3):
        terms = weight[f].astype(np.float64) * u[n]
        for position in range(5):
            wanted = math.fsum(terms[:, position])
            assert cell[n, position, f] == pytest.approx(wanted, rel=tolerance, abs=tolerance)
        for k in range(4):
            assert channel[n, k, f] == pytest.approx(math.fsum(terms[k]), rel=tolerance, abs=tolerance)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.integers(0, 99))
def test_both_splits_add_up_to_the_layer(n, f, k, cells, seed):
    rng = np.random.default_rng(seed)
    weight, u = rng.standard_normal((f, k, cells)), rng.standard_normal((n, k, cells))
    layer = u.reshape(n, -1) @ weight.reshape(f, -1).T
    assert_close(partial_products(weight, u, by="cell", threads=2).sum(axis=1), layer, factor=10)
    assert_close(partial_products(weight, u, by="channel", threads=2).sum(axis=1), layer, factor=10)


def test_errors_name_what_is_wrong():
    weight, u = np.zeros((2, 3, 4)), np.zeros((1, 3, 4))
    with pytest.raises(ValueError, match=r"u must have shape \(N, 3, 4\), got \(1, 3, 5\)"):
        partial_products(weight, np.zeros((1, 3, 5)), by="cell")
    with pytest.raises(ValueError, match="by must be 'cell' or 'channel', got 'row'"):
        partial_products(weight, u, by="row")
    with pytest.raises(ValueError, match=r"weight must have the axes \(F, K, L\), got shape \(2, 12\)"):
        partial_products(weight.reshape(2, 12), u, by="cell")
    with pytest.raises(ValueError, match="weight must not be empty"):
        partial_products(np.zeros((2, 0, 4)), np.zeros((1, 0, 4)), by="cell")
