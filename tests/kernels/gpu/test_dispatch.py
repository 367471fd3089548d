"""Tensors on a GPU reach its kernels by the functions that arrays are passed to."""

import numpy as np
import pytest

from camrt.kernels import dispatch
from camrt.kernels.ablate import ablate_channels
from camrt.kernels.blur import blur
from camrt.kernels.box_probabilities import box_probabilities, box_probabilities_pair
from camrt.kernels.box_sums import box_sums
from camrt.kernels.partial_products import matmul_packed, pack_weight, partial_products
from camrt.kernels.saliency import saliency
from helpers.tolerances import assert_close
from helpers.triton_interpreter import INTERPRETED, torch

BOXES = np.array([(0, 0, 1, 2), (1, 1, 3, 3)])


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch):
    if INTERPRETED:
        monkeypatch.setitem(dispatch.DEVICE_BACKENDS, "cpu", "gpu")


def test_functions_of_arrays_take_tensors_there(rng, tensor, poisoned):
    maps, logits = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 4, 3, 3), (2, 5)))
    cells, targets = rng.standard_normal((2, 3, 3, 5)).astype(np.float32), np.array([[4, 0], [1, 1]])
    for function, given, options in (
        (blur, (maps, np.array([0.25, 0.5, 0.25]), "zero"), {}),
        (box_probabilities, (cells, logits, BOXES, targets), {"sign": -1}),
        (box_probabilities_pair, (cells, logits, logits[::-1].copy(), BOXES, targets), {"threads": 1}),
        (box_sums, (cells, BOXES), {"threads": 2}),
        (saliency, (maps[0], (7, 5)), {"threads": 1}),
    ):
        kept = [
            one is BOXES or one.dtype == np.float64 if isinstance(one, np.ndarray) else True for one in given
        ]
        found = function(
            *(one if keep else tensor(one) for one, keep in zip(given, kept, strict=True)), **options
        )
        expected = function(*given, **options)
        if not isinstance(found, tuple):
            found, expected = (found,), (expected,)
        for mine, theirs in zip(found, expected, strict=True):
            assert_close(mine.cpu().numpy(), theirs, "float32", factor=4)
    out = poisoned((1, 4, 3, 3), "float32")
    index = tensor(np.array([1]))
    ablate_channels(tensor(maps), index, index, out, threads=1)
    assert torch.equal(out[0, [0, 2, 3]].cpu(), torch.from_numpy(maps[1, [0, 2, 3]]))
    assert not out[0, 1].any()


def test_a_packed_weight_is_the_same_weight(rng, tensor):
    weight, rows = (rng.standard_normal(shape).astype(np.float32) for shape in ((6, 4, 9), (2, 6)))
    u = rng.standard_normal((2, 4, 9)).astype(np.float32)
    packed = pack_weight(tensor(weight))
    assert packed.stride() == (1, 6, 24)
    assert pack_weight(weight) is weight
    assert_close(matmul_packed(tensor(rows), packed).cpu().numpy(), matmul_packed(rows, weight), factor=4)
    found = partial_products(packed, tensor(u), by="channel", threads=1)
    assert_close(found.cpu().numpy(), partial_products(weight, u, by="channel"), factor=4)
