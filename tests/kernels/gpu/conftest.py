"""GPU kernels run on the GPU where there is one, and else in Triton's interpreter, on the CPU."""

import warnings

import numpy as np
import pytest

from helpers.triton_interpreter import INTERPRETED, torch


def pytest_collection_modifyitems(items):
    for item in items:
        if "kernels/gpu" in item.path.as_posix() and item.get_closest_marker("aot") is None:
            item.add_marker("interpret" if INTERPRETED else "gpu")


@pytest.fixture(autouse=True)
def _quiet():
    """Triton's interpreter computes with NumPy, which warns of what a GPU does in silence."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice encountered", RuntimeWarning)
        yield


@pytest.fixture(scope="session")
def device():
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


@pytest.fixture(params=["float32", "float16", "bfloat16"])
def kind(request):
    """The name of the type that tensors have."""
    return request.param


@pytest.fixture(params=["NCHW", "NHWC"])
def layout(request):
    return request.param


@pytest.fixture
def tensor(device):
    """Put an array on the device, dense in a layout or with gaps in every axis."""

    def put(array, kind=None, layout="NCHW", gaps=False):
        made = torch.from_numpy(np.ascontiguousarray(array))
        made = made.to(device, getattr(torch, kind) if kind else made.dtype)
        if gaps:
            wide = torch.full([2 * side + 1 for side in made.shape], float("nan"), device=device).to(
                made.dtype
            )
            view = wide[tuple(slice(1, None, 2) for _ in made.shape)]
            view.copy_(made)
            return view
        return made.contiguous(memory_format=torch.channels_last) if layout == "NHWC" else made

    return put


@pytest.fixture
def poisoned(device):
    """Make tensors full of NaN, to be written over."""

    def make(shape, kind, layout="NCHW"):
        made = torch.full(shape, float("nan"), dtype=getattr(torch, kind), device=device)
        return made.contiguous(memory_format=torch.channels_last) if layout == "NHWC" else made

    return make


@pytest.fixture
def rounded():
    """The numbers of an array as a type holds them, in float64."""

    def convert(array, kind):
        return torch.from_numpy(np.ascontiguousarray(array)).to(getattr(torch, kind)).double().numpy()

    return convert
