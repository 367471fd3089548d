"""The interpreter of these tests, made quicker, finds what Triton's own finds."""

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError

from helpers.triton_interpreter import INTERPRETED

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="kernels run on the GPU")


@triton.jit
def _product(a, b):
    return a * b


@triton.jit
def _below_the_greatest(p_out, factor, SIDE: tl.constexpr):
    rows = tl.arange(0, SIDE)[:, None]
    columns = tl.arange(0, SIDE)[None, :]
    values = _product(rows + columns, factor)
    tl.store(p_out + rows * SIDE + columns, values - tl.max(values, axis=1, keep_dims=True))


def launched(factor):
    out = torch.empty((4, 4), dtype=torch.int32)
    _below_the_greatest[(1,)](out, factor, SIDE=4)
    return out


LARGEST = (2**31 - 1) // 6


@pytest.mark.parametrize("factor", [3, LARGEST, -LARGEST])
def test_functions_that_kernels_call(factor):
    values = factor * (torch.arange(4)[:, None] + torch.arange(4))
    assert torch.equal(launched(factor), (values - values.amax(1, keepdim=True)).int())


@pytest.mark.parametrize("factor", [LARGEST + 1, -LARGEST - 1])
def test_an_integer_that_overflows_is_an_error(factor):
    with pytest.raises(InterpreterError, match="int32 overflows: mul"):
        launched(factor)
