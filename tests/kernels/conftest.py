import os

import numpy as np
import pytest

from camrt.kernels import IMPLEMENTATION


@pytest.fixture
def native():
    """For tests that compare the native kernels with the reference."""
    if os.environ.get("CAMRT_KERNELS") == "reference":
        pytest.skip("CAMRT_KERNELS=reference asks for the NumPy kernels")
    assert IMPLEMENTATION == "native", "the native kernels are missing"


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture(params=[1, 3], ids=["1-thread", "3-threads"])
def threads(request):
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(20)


@pytest.fixture
def normal(rng, dtype):
    """Make arrays of normal deviates."""
    return lambda *shape: rng.standard_normal(shape).astype(dtype)


@pytest.fixture
def poisoned(dtype):
    """Make arrays full of NaN, to be written over."""
    return lambda *shape: np.full(shape, np.nan, dtype)


@pytest.fixture
def strided():
    """Make a non-contiguous copy of an array."""

    def copy(array):
        wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
        wide[..., ::2] = array
        return wide[..., ::2]

    return copy
