import numpy as np
import pytest

from camrt.kernels.perturb import perturb, reference


def case(normal, rng, height, width, sheets=4, rankings=3, rows=11, channels=3):
    pixels = height * width
    ranks = np.stack([rng.permutation(pixels) for _ in range(rankings)])
    count = rng.integers(0, pixels + 1, rows)
    count[:2] = [0, pixels]
    return (
        normal(sheets, channels, height, width),
        ranks,
        rng.integers(0, rankings, rows),
        count,
        rng.integers(0, sheets, rows),
        rng.integers(0, sheets, rows),
    )


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (31, 17), (224, 224)], ids=str)
def test_native_agrees_with_reference(native, size, normal, rng, poisoned, threads, strided):
    sheets, *asked = case(normal, rng, *size)
    shape = (len(asked[1]), *sheets.shape[1:])
    out, expected = poisoned(*shape), poisoned(*shape)
    perturb(strided(sheets), *asked, out, threads=threads)
    reference.perturb(sheets, *asked, expected)
    assert np.array_equal(out, expected)


def test_pixels_come_from_the_sheets_that_are_named(rng, dtype):
    sheets = np.arange(2 * 1 * 2 * 2, dtype=dtype).reshape(2, 1, 2, 2)
    ranks = np.array([[3, 0, 2, 1]])
    out = np.empty((3, 1, 2, 2), dtype)
    perturb(sheets, ranks, [0, 0, 0], [2, 0, 4], [1, 1, 1], [0, 0, 0], out)
    assert out.reshape(3, 4).tolist() == [[0, 5, 2, 7], [0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranks": np.zeros((1, 3), int)}, "ranks must have shape"),
        ({"ranking": [1]}, "ranking holds 1"),
        ({"count": [5]}, "count holds 5"),
        ({"first": [2]}, "first holds 2"),
        ({"rest": [-1]}, "rest holds -1"),
        ({"out": np.empty((1, 1, 2, 2), np.float64)}, "out must be float32"),
        ({"sheets": np.zeros((1, 2, 2), np.float32)}, "sheets must have the axes"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {
        "sheets": np.zeros((2, 1, 2, 2), np.float32),
        "ranks": np.arange(4)[None],
        "ranking": [0],
        "count": [1],
        "first": [0],
        "rest": [1],
        "out": np.empty((1, 1, 2, 2), np.float32),
    } | change
    with pytest.raises(ValueError, match=message):
        perturb(**arguments)
