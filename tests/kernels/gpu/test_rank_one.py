import numpy as np
import pytest
import torch

from camrt.kernels.rank_one import gpu, reference
from helpers.tolerances import assert_close

# (N, K, F, L): pooled inputs, maps smaller than a vector, borders of features within vectors.
SHAPES = [
    (1, 1, 1, 1),
    (3, 7, 63, 1),
    (2, 5, 9, 35),
    (2, 3, 4, 63),
    (2, 3, 130, 3),
    (1, 4, 50, 49),
    (1, 2, 2, 700),
]


@pytest.fixture
def put(tensor, poisoned):
    """Tensors of three axes, contiguous or with the last two the other way round in memory."""

    def make(array, kind, layout):
        if layout == "NCHW":
            return tensor(array, kind)
        return tensor(np.ascontiguousarray(np.swapaxes(array, 1, 2)), kind).mT

    return make


def case(rng, n, k, f, length, b=7):
    base, weight = rng.standard_normal((n, f, length)), rng.standard_normal((k, f))
    arrays = [each.astype(np.float32) for each in (base, weight, rng.standard_normal((n, k, length)))]
    return arrays, [rng.integers(0, n, b), rng.integers(0, k, b)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_reference(shape, rng, tensor, poisoned, rounded, put, kind, layout):
    _, _, f, length = shape
    (base, weight, a), (batch_index, channel) = case(rng, *shape)
    base[0, -1, 0] = np.nan
    weight[-1, 0] = np.inf
    a[-1, 0, -1] = -np.inf
    out = put(poisoned((7, f, length), kind).float().cpu().numpy(), kind, layout)
    gpu.rank_one(
        put(base, kind, layout),
        tensor(weight, kind),
        tensor(a, kind),
        tensor(batch_index),
        tensor(channel),
        out,
    )
    expected = np.full((7, f, length), np.nan)
    with np.errstate(invalid="ignore"):
        reference.rank_one(
            *(rounded(each, kind) for each in (base, weight, a)), batch_index, channel, expected
        )
    assert_close(out.double().cpu().numpy(), expected, kind)


@pytest.mark.parametrize("source", ["NCHW", "NHWC", "gaps"])
def test_any_strides_are_read(source, rng, tensor, poisoned, put, layout):
    (base, weight, a), index = case(rng, 2, 3, 21, 10)
    gaps = source == "gaps"
    out = put(np.full((7, 21, 10), np.nan, np.float32), "float32", layout)
    gpu.rank_one(
        tensor(base, gaps=True) if gaps else put(base, "float32", source),
        tensor(weight, gaps=gaps), tensor(a, gaps=gaps), *(tensor(i.astype(np.int32)) for i in index), out,
    )  # fmt: skip
    expected = np.full(out.shape, np.nan)
    reference.rank_one(*(each.astype(np.float64) for each in (base, weight, a)), *index, expected)
    assert_close(out.cpu().numpy(), expected)


def test_the_types_of_all_sides_are_their_own(rng, tensor, poisoned, rounded):
    arrays, index = case(rng, 1, 2, 33, 12)
    kinds = ["bfloat16", "float32", "float16"]
    out = poisoned((7, 33, 12), "float32")
    given = (tensor(array, kind) for array, kind in zip(arrays, kinds, strict=True))
    gpu.rank_one(*given, *(tensor(i) for i in index), out)
    expected = np.full(out.shape, np.nan)
    reference.rank_one(*(rounded(a, kind) for a, kind in zip(arrays, kinds, strict=True)), *index, expected)
    assert_close(out.cpu().numpy(), expected)


@pytest.mark.parametrize("length", [1, 3, 20])
def test_equals_the_layer_without_the_channel(length, rng, tensor, poisoned):
    weight, a = rng.standard_normal((6, 40)), rng.standard_normal((1, 6, length))
    base = np.einsum("kf,nkl->nfl", weight, a)
    out = poisoned((6, 40, length), "float32")
    every = tensor(np.arange(6))
    gpu.rank_one(
        tensor(base, "float32"), tensor(weight, "float32"), tensor(a, "float32"), 0 * every, every, out
    )
    for channel in range(6):
        without = a.copy()
        without[0, channel] = 0
        layer = np.einsum("kf,nkl->nfl", weight, without)[0]
        assert np.abs(out[channel].cpu().numpy() - layer).max() <= 2e-6 * np.abs(base).max()


def test_empty_batch(tensor, poisoned):
    base, weight = tensor(np.ones((1, 4, 5), np.float32)), tensor(np.ones((3, 4), np.float32))
    none = tensor(np.zeros(0, int))
    gpu.rank_one(
        base, weight, tensor(np.ones((1, 3, 5), np.float32)), none, none, poisoned((0, 4, 5), "float32")
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": torch.zeros(2, 4)}, r"base must have the axes \(N, F, L\), got shape \(2, 4\)"),
        ({"weight": torch.zeros(3, 6)}, r"weight must have shape \(K, 4\) to match base, got \(3, 6\)"),
        ({"weight": torch.zeros(3, 4).double()}, "weight must be a tensor of .* got torch.float64"),
        ({"activations": torch.zeros(2, 3, 1)}, r"activations must have shape \(2, 3, 5\), got \(2, 3, 1\)"),
        ({"batch_index": torch.zeros(2, 1).long()}, r"batch_index must have shape \(any\), got \(2, 1\)"),
        ({"channel": torch.zeros(2)}, "channel must be a tensor of int32 or int64, got torch.float32"),
        ({"out": torch.zeros(2, 5, 4)}, r"out must have shape \(2, 4, 5\), got \(2, 5, 4\)"),
        ({"out": torch.zeros(2, 4, 10)[..., ::2]}, "out must be contiguous or channels-last, got strides"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_name_what_is_wrong(change, message):
    arguments = {
        "base": torch.zeros(2, 4, 5),
        "weight": torch.zeros(3, 4),
        "activations": torch.zeros(2, 3, 5),
        "batch_index": torch.zeros(2).long(),
        "channel": torch.zeros(2).long(),
        "out": torch.zeros(2, 4, 5),
    }
    with pytest.raises(ValueError, match=message):
        gpu.rank_one(**(arguments | change))


@pytest.mark.parametrize("turned", [False, True])
def test_out_may_not_be_what_is_read(turned):
    base, index = torch.zeros(2, 5, 4).mT if turned else torch.zeros(2, 4, 5), torch.zeros(2).long()
    with pytest.raises(ValueError, match="out must not share memory"):
        gpu.rank_one(base, torch.zeros(3, 4), torch.zeros(2, 3, 5), index, index, base)
