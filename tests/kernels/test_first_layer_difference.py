import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.kernels.first_layer_difference import first_layer_boxes, first_layer_channels, reference
from camrt.kernels.partial_products import partial_products
from helpers.tolerances import assert_close


def boxes_for(rng, count, h, w):
    r0, c0 = rng.integers(0, h, count), rng.integers(0, w, count)
    return np.stack([r0, c0, rng.integers(r0 + 1, h + 1), rng.integers(c0 + 1, w + 1)], axis=1)


@pytest.mark.parametrize("keep", [False, True])
def test_boxes_agree_with_loops(keep, normal, rng, poisoned, strided, dtype):
    start, partial = normal(2, 5), normal(2, 4, 3, 5)
    batch_index, boxes = rng.integers(0, 2, 9), boxes_for(rng, 9, 4, 3)
    out, again = poisoned(9, 5), poisoned(9, 5)
    first_layer_boxes(strided(start), strided(partial), batch_index, boxes, out, keep=keep)
    reference.first_layer_boxes(start, partial, batch_index, boxes, again, keep=keep)
    np.testing.assert_array_equal(out, again)
    expected = np.empty((9, 5))
    for b, f in np.ndindex(9, 5):
        r0, c0, r1, c1 = boxes[b]
        held = math.fsum(
            float(partial[batch_index[b], r, c, f]) for r in range(r0, r1) for c in range(c0, c1)
        )
        expected[b, f] = float(start[batch_index[b], f]) + (held if keep else -held)
    assert_close(out, expected, dtype)


def test_channels_agree_with_loops(normal, rng, poisoned, strided, dtype):
    start, partial = normal(2, 5), normal(2, 4, 5)
    batch_index, channel = rng.integers(0, 2, 9), rng.integers(0, 4, 9)
    out = poisoned(9, 5)
    first_layer_channels(strided(start), strided(partial), batch_index, channel, out)
    for b, f in np.ndindex(9, 5):
        wanted = float(start[batch_index[b], f]) - float(partial[batch_index[b], channel[b], f])
        assert out[b, f] == pytest.approx(wanted, rel=1e-6 if dtype == np.float32 else 1e-14, abs=1e-30)


def test_one_answer_may_do_for_all_images(normal, rng, poisoned):
    bias, cells, channels = normal(5), normal(3, 2, 2, 5), normal(3, 4, 5)
    batch_index, boxes = np.arange(3), boxes_for(rng, 3, 2, 2)
    one, each = poisoned(3, 5), poisoned(3, 5)
    first_layer_boxes(bias, cells, batch_index, boxes, one, keep=True)
    first_layer_boxes(np.tile(bias, (3, 1)), cells, batch_index, boxes, each, keep=True)
    np.testing.assert_array_equal(one, each)
    first_layer_channels(bias, channels, batch_index, batch_index, one)
    np.testing.assert_array_equal(one, bias - channels[batch_index, batch_index])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.integers(1, 12), st.integers(0, 99))
def test_equals_the_layer_of_the_ablated_input(h, w, k, f, seed):
    rng = np.random.default_rng(seed)
    weight, bias, a = (
        rng.standard_normal((f, k, h * w)),
        rng.standard_normal(f),
        rng.standard_normal((2, k, h, w)),
    )

    def layer(inputs):
        return inputs.reshape(len(inputs), -1) @ weight.reshape(f, -1).T + bias

    batch_index, boxes, channel = rng.integers(0, 2, 5), boxes_for(rng, 5, h, w), rng.integers(0, k, 5)
    flat = a.reshape(2, k, -1)
    cells = partial_products(weight, flat, by="cell").reshape(2, h, w, f)
    deleted, kept, without = (np.full((5, f), np.nan) for _ in range(3))
    first_layer_boxes(layer(a), cells, batch_index, boxes, deleted, keep=False)
    first_layer_boxes(bias, cells, batch_index, boxes, kept, keep=True)
    first_layer_channels(
        layer(a), partial_products(weight, flat, by="channel"), batch_index, channel, without
    )
    for b, (n, (r0, c0, r1, c1)) in enumerate(zip(batch_index, boxes, strict=True)):
        holed, alone, lacking = a[n : n + 1].copy(), np.zeros((1, k, h, w)), a[n : n + 1].copy()
        holed[:, :, r0:r1, c0:c1] = 0
        alone[:, :, r0:r1, c0:c1] = a[n, :, r0:r1, c0:c1]
        lacking[:, channel[b]] = 0
        # The layer's own sums, in another order.
        for found, inputs in ((deleted, holed), (kept, alone), (without, lacking)):
            assert np.abs(found[b] - layer(inputs)[0]).max() <= 1e-12 * (1 + np.abs(layer(a)).max())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_reaches_its_own_boxes_alone(value, normal):
    start, partial = normal(2, 3), normal(2, 3, 3, 3)
    partial[1, 1, 1, 2] = value
    boxes = [(0, 0, 1, 3), (1, 1, 2, 2), (0, 0, 3, 3), (2, 0, 3, 3), (0, 0, 3, 3)]
    out = np.zeros((5, 3), start.dtype)
    first_layer_boxes(start, partial, [1, 1, 1, 1, 0], boxes, out, keep=False)
    assert np.isfinite(out).all(axis=1).tolist() == [True, False, False, True, True]
    assert np.isfinite(out[:, :2]).all()


def test_empty_batch(normal):
    start, out = normal(1, 3), normal(0, 3)
    first_layer_boxes(start, normal(1, 2, 2, 3), [], np.empty((0, 4), int), out, keep=True)
    first_layer_channels(start, normal(1, 2, 3), [], [], out)


def test_errors_name_what_is_wrong():
    start, cells, out = np.zeros((2, 5)), np.zeros((2, 3, 3, 5)), np.zeros((1, 5))
    with pytest.raises(ValueError, match=r"start must have shape \(2, 5\) or \(5,\), got \(1, 5\)"):
        first_layer_boxes(start[:1], cells, [0], [(0, 0, 1, 1)], out, keep=True)
    with pytest.raises(ValueError, match=r"start must have the axes \(N, F\), got shape \(2, 5, 1\)"):
        first_layer_boxes(start[:, :, None], cells, [0], [(0, 0, 1, 1)], out, keep=True)
    with pytest.raises(ValueError, match="start must be float64 like the other arrays, got float32"):
        first_layer_boxes(start.astype(np.float32), cells, [0], [(0, 0, 1, 1)], out, keep=True)
    with pytest.raises(
        ValueError, match=r"boxes must have shape \(1, 4\) to match batch_index, got \(2, 4\)"
    ):
        first_layer_boxes(start, cells, [0], [(0, 0, 1, 1)] * 2, out, keep=True)
    with pytest.raises(ValueError, match=r"boxes\[0\] is \(0, 0, 1, 4\)"):
        first_layer_boxes(start, cells, [0], [(0, 0, 1, 4)], out, keep=True)
    with pytest.raises(ValueError, match=r"batch_index holds 2, outside 0\.\.1"):
        first_layer_boxes(start, cells, [2], [(0, 0, 1, 1)], out, keep=True)
    with pytest.raises(ValueError, match=r"channel holds 3, outside 0\.\.2"):
        first_layer_channels(start, np.zeros((2, 3, 5)), [0], [3], out)
    with pytest.raises(ValueError, match=r"out must have shape \(1, 5\), got \(2, 5\)"):
        first_layer_channels(start, np.zeros((2, 3, 5)), [0], [0], start)
    with pytest.raises(ValueError, match="out must not overlap"):
        first_layer_channels(start[:1], np.zeros((1, 3, 5)), [0], [0], start[:1])
