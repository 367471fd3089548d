import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.kernels.perturb import perturb, reference

SIZES = [(1, 1, 1), (3, 7, 5), (2, 63, 1), (1, 1, 63), (4, 9, 31), (3, 224, 224)]


def case(normal, rng, size, sheets=4, rankings=3, batch=12):
    pixels = size[1] * size[2]
    ranks = np.stack([rng.permutation(pixels) for _ in range(rankings)])
    count = rng.integers(0, pixels + 1, batch)
    count[:2] = [0, pixels]
    picks = [rng.integers(0, limit, batch) for limit in (rankings, sheets, sheets)]
    return normal(sheets, *size), ranks, picks[0], count, picks[1], picks[2], (batch, *size)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_native_agrees_with_reference(native, size, normal, rng, poisoned, threads, strided):
    sheets, ranks, ranking, count, first, rest, shape = case(normal, rng, size)
    sheets[0, 0, 0, 0], sheets[1, -1, -1, -1] = np.nan, -np.inf
    out, expected = poisoned(*shape), poisoned(*shape)
    perturb(strided(sheets), strided(ranks), ranking, count, first, rest, out, threads=threads)
    reference.perturb(sheets, ranks, ranking, count, first, rest, expected)
    np.testing.assert_array_equal(out, expected)


def test_pixel_by_pixel(normal, rng, poisoned):
    sheets, ranks, ranking, count, first, rest, shape = case(normal, rng, (2, 4, 3))
    out = poisoned(*shape)
    perturb(sheets, ranks, ranking, count, first, rest, out)
    for b in range(len(out)):
        place = {int(rank): divmod(pixel, 3) for pixel, rank in enumerate(ranks[ranking[b]])}
        for rank, (r, c) in place.items():
            source = first[b] if rank < count[b] else rest[b]
            np.testing.assert_array_equal(out[b, :, r, c], sheets[source, :, r, c])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_each_step_alters_the_pixels_of_its_ranks_alone(height, width, seed):
    rng = np.random.default_rng(seed)
    pixels = height * width
    sheets = np.stack([np.zeros((2, height, width)), np.ones((2, height, width))])
    ranks = rng.permutation(pixels)[None]
    steps = np.arange(pixels + 1)
    out = np.full((pixels + 1, 2, height, width), np.nan)
    none, one = np.zeros_like(steps), np.ones_like(steps)
    perturb(sheets, ranks, none, steps, one, none, out)
    assert out.reshape(pixels + 1, 2, -1).sum(axis=2).tolist() == [[k, k] for k in range(pixels + 1)]
    order = np.diff(out[:, 0].reshape(pixels + 1, -1), axis=0).argmax(axis=1)
    np.testing.assert_array_equal(order, np.argsort(ranks[0]))


def test_any_integers_will_do(normal, rng, poisoned):
    sheets, ranks, ranking, count, first, rest, shape = case(normal, rng, (1, 3, 4))
    out, expected = poisoned(*shape), poisoned(*shape)
    perturb(sheets, ranks, ranking, count, first, rest, expected)
    perturb(sheets, ranks.astype(np.uint8), ranking.tolist(), count.astype(np.int16), first, rest, out)
    np.testing.assert_array_equal(out, expected)


def test_empty_batch():
    out = np.empty((0, 1, 2, 2))
    perturb(np.ones((1, 1, 2, 2)), np.arange(4)[None], [], [], [], [], out)
    assert out.shape == (0, 1, 2, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sheets": np.zeros((2, 3, 4))}, r"sheets must have the axes \(S, C, H, W\)"),
        ({"sheets": np.zeros((2, 3, 2, 4), int)}, "sheets must be an array of float32 or float64"),
        ({"ranks": np.zeros((1, 7), int)}, r"ranks must have shape \(any, 8\), got \(1, 7\)"),
        ({"ranks": np.full((1, 8), 8)}, r"ranks holds 8, outside 0\.\.7"),
        ({"ranks": np.zeros((1, 8))}, "ranks must hold integers, got float64"),
        ({"ranking": [0, 1]}, r"ranking holds 1, outside 0\.\.0"),
        ({"count": [0, 9]}, r"count holds 9, outside 0\.\.8"),
        ({"count": [-1, 0]}, r"count holds -1, outside 0\.\.8"),
        ({"count": [0]}, r"count must have shape \(2\), got \(1,\)"),
        ({"first": [0, 2]}, r"first holds 2, outside 0\.\.1"),
        ({"rest": [-1, 0]}, r"rest holds -1, outside 0\.\.1"),
        ({"out": np.zeros((1, 3, 2, 4))}, r"out must have shape \(2, 3, 2, 4\)"),
        ({"out": np.zeros((2, 3, 2, 4), np.float32)}, "out must be float64, got float32"),
        ({"out": np.zeros((2, 3, 2, 8))[..., ::2]}, "out must be C-contiguous"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_name_what_is_wrong(change, message):
    arguments = {
        "sheets": np.zeros((2, 3, 2, 4)),
        "ranks": np.arange(8)[None],
        "ranking": [0, 0],
        "count": [0, 8],
        "first": [0, 1],
        "rest": [1, 0],
        "out": np.zeros((2, 3, 2, 4)),
    }
    with pytest.raises(ValueError, match=message):
        perturb(**(arguments | change))


def test_out_may_not_overlap_or_be_read_only():
    sheets = np.zeros((2, 1, 2, 2))
    arguments = (np.arange(4)[None], [0, 0], [1, 2], [0, 1], [1, 0])
    with pytest.raises(ValueError, match="out must not overlap"):
        perturb(sheets, *arguments, sheets)
    out = np.zeros_like(sheets)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writeable"):
        perturb(sheets, *arguments, out)
