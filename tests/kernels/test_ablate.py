import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.kernels.ablate import ablate_boxes, ablate_channels, reference

SHAPES = [(1, 1, 1, 1), (3, 4, 7, 5), (2, 65, 3, 63), (2, 512, 14, 28)]


def boxes_for(rng, count, h, w):
    r0, c0 = rng.integers(0, h, count), rng.integers(0, w, count)
    return np.stack([r0, c0, rng.integers(r0 + 1, h + 1), rng.integers(c0 + 1, w + 1)], axis=1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_native_agrees_with_reference(native, shape, normal, rng, poisoned, threads, strided):
    a = normal(*shape)
    a[0, 0, 0, 0] = np.nan
    n, k, h, w = shape
    batch_index, channel, boxes = rng.integers(0, n, 9), rng.integers(0, k, 9), boxes_for(rng, 9, h, w)
    out, expected = poisoned(9, k, h, w), poisoned(9, k, h, w)
    ablate_channels(strided(a), batch_index, channel, out, threads=threads)
    reference.ablate_channels(a, batch_index, channel, expected)
    np.testing.assert_array_equal(out, expected)
    for keep in (False, True):
        out[...], expected[...] = np.nan, np.nan
        ablate_boxes(strided(a), batch_index, boxes, out, keep=keep, threads=threads)
        reference.ablate_boxes(a, batch_index, boxes, expected, keep=keep)
        np.testing.assert_array_equal(out, expected)


def test_reference_agrees_with_loops(normal, rng, poisoned):
    a = normal(2, 3, 4, 5)
    batch_index, channel, boxes = rng.integers(0, 2, 6), rng.integers(0, 3, 6), boxes_for(rng, 6, 4, 5)
    one, without, only = (poisoned(6, 3, 4, 5) for _ in range(3))
    reference.ablate_channels(a, batch_index, channel, one)
    reference.ablate_boxes(a, batch_index, boxes, without, keep=False)
    reference.ablate_boxes(a, batch_index, boxes, only, keep=True)
    for b, k, r, c in np.ndindex(one.shape):
        value = a[batch_index[b], k, r, c]
        inside = boxes[b, 0] <= r < boxes[b, 2] and boxes[b, 1] <= c < boxes[b, 3]
        assert one[b, k, r, c] == (0 if k == channel[b] else value)
        assert without[b, k, r, c] == (0 if inside else value)
        assert only[b, k, r, c] == (value if inside else 0)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 20), st.integers(0, 99))
def test_deletion_and_preservation_add_up(h, w, k, seed):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((2, k, h, w)).astype(np.float32)
    batch_index, boxes = rng.integers(0, 2, 5), boxes_for(rng, 5, h, w)
    without, only = (np.full((5, k, h, w), np.nan, np.float32) for _ in range(2))
    ablate_boxes(a, batch_index, boxes, without, keep=False)
    ablate_boxes(a, batch_index, boxes, only, keep=True)
    np.testing.assert_array_equal(without + only, a[batch_index])


def test_a_nan_that_is_ablated_leaves_no_trace():
    a = np.full((1, 1, 2, 2), np.nan)
    out = np.ones((1, 1, 2, 2))
    ablate_channels(a, [0], [0], out)
    assert not out.any()
    ablate_boxes(a, [0], [(0, 0, 2, 2)], out, keep=False)
    assert not out.any()


def test_errors_name_what_is_wrong():
    a, out = np.zeros((1, 2, 3, 3)), np.zeros((1, 2, 3, 3))
    with pytest.raises(ValueError, match=r"channel holds 2, outside 0\.\.1"):
        ablate_channels(a, [0], [2], out)
    with pytest.raises(
        ValueError, match=r"boxes must have shape \(1, 4\) to match batch_index, got \(2, 4\)"
    ):
        ablate_boxes(a, [0], [(0, 0, 1, 1)] * 2, out, keep=True)
    with pytest.raises(ValueError, match=r"boxes\[0\] is \(0, 0, 1, 4\)"):
        ablate_boxes(a, [0], [(0, 0, 1, 4)], out, keep=True)
    with pytest.raises(ValueError, match="out must not overlap"):
        ablate_channels(a, [0], [0], a)
    with pytest.raises(ValueError, match="out must be C-contiguous"):
        ablate_channels(a, [0], [0], out.transpose(0, 1, 3, 2))
