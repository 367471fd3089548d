import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.engine.methods.boxes import place_boxes
from camrt.kernels.box_scores import box_scores, reference
from helpers.tolerances import assert_close

SIDES = ((1, 1), (1, 2), (2, 1), (2, 2))
SHAPES = [(1, 1, 1, 1, 1), (2, 5, 3, 2, 7), (3, 20, 7, 7, 63), (1, 8, 4, 5, 200), (0, 3, 2, 2, 4)]


def placed(h, w):
    """The boxes of Pixab-CAM."""
    return place_boxes(SIDES, (h, w), "coverage").distinct


def case(rng, n, k, h, w, classes, targets=3):
    features = np.maximum(rng.standard_normal((n, k, h, w)), 0)
    weight = rng.standard_normal((classes, k))
    empty_logits = np.repeat(rng.standard_normal((1, classes)), n, axis=0)
    logits = empty_logits + features.mean((2, 3)) @ weight.T
    return [features, weight, logits, empty_logits], rng.integers(0, classes, (n, targets))


def softmax_at(logits, targets):
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.take_along_axis(powers / powers.sum(axis=1, keepdims=True), targets, axis=1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_probabilities_agree_with_reference(shape, rng, dtype, threads, strided):
    arrays, targets = case(rng, *shape)
    arrays = [one.astype(dtype) for one in arrays]
    wide = [one.astype(np.float64) for one in arrays]
    boxes = placed(*shape[2:4])
    found = box_scores(*(strided(one) for one in arrays), boxes, targets, scale=0.1, threads=threads)
    expected = reference.box_scores(*wide, boxes, targets, scale=0.1)
    for one, wanted in zip(found, expected, strict=True):
        assert one.dtype == dtype
        assert_close(one, wanted, dtype, factor=4)  # contributions are sums over channels, rounded


def test_reference_agrees_with_loops(rng):
    (features, weight, logits, empty_logits), targets = case(rng, 2, 3, 3, 2, 4)
    boxes = placed(3, 2)
    pair = reference.box_scores(features, weight, logits, empty_logits, boxes, targets, scale=0.5)
    for n, p, t in np.ndindex(pair[0].shape):
        r0, c0, r1, c1 = boxes[p]
        for sign, base, out in ((-1, logits, pair[0]), (1, empty_logits, pair[1])):
            powers = []
            for c in range(4):
                box = features[n, :, r0:r1, c0:c1].sum((1, 2))
                powers.append(math.exp(base[n, c] + sign * 0.5 * math.fsum(weight[c] * box)))
            assert out[n, p, t] == pytest.approx(powers[targets[n, t]] / math.fsum(powers), rel=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_stay_in_their_boxes(value, rng, dtype):
    arrays, targets = case(rng, 2, 4, 4, 5, 9)
    arrays = [one.astype(dtype) for one in arrays]
    arrays[0][0, 2, 1, 3] = value
    boxes = placed(4, 5)
    r0, c0, r1, c1 = boxes.T
    holds = (r0 <= 1) & (r1 > 1) & (c0 <= 3) & (c1 > 3)
    for found in box_scores(*arrays, boxes, targets, scale=0.05):
        assert np.isnan(found[0, holds]).all()
        assert np.isfinite(found[0, ~holds]).all()
        assert np.isfinite(found[1]).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 70), st.integers(0, 99))
def test_deleting_the_whole_map_leaves_nothing(h, w, classes, seed):
    arrays, targets = case(np.random.default_rng(seed), 2, 3, h, w, classes)
    deleted, kept = box_scores(*arrays, [(0, 0, h, w)], targets, scale=1 / (h * w))
    assert_close(deleted[:, 0], softmax_at(arrays[3], targets))
    assert_close(kept[:, 0], softmax_at(arrays[2], targets))


def test_no_boxes_and_no_targets(rng):
    arrays, targets = case(rng, 2, 3, 2, 2, 4)
    none = np.empty((0, 4), int)
    assert box_scores(*arrays, none, targets, scale=1.0)[0].shape == (2, 0, 3)
    assert box_scores(*arrays, [(0, 0, 1, 1)], targets[:, :0], scale=1.0)[1].shape == (2, 1, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros((2, 3, 2))}, r"features must have the axes \(N, K, h, w\), got shape"),
        ({"features": np.zeros((2, 3, 0, 2))}, "features must have at least one row and one column"),
        ({"weight": np.zeros((4, 2))}, r"weight must have .* 3 channels like features, got \(4, 2\)"),
        ({"weight": np.zeros((0, 3))}, "weight must have at least one class"),
        ({"weight": np.zeros((4, 3), np.float32)}, "weight must be float64 like the other arrays"),
        ({"logits": np.zeros((2, 5))}, r"logits must have shape \(2, 4\), got \(2, 5\)"),
        ({"empty_logits": np.zeros((1, 4))}, r"empty_logits must have shape \(2, 4\), got \(1, 4\)"),
        ({"boxes": [(0, 0, 3, 1)]}, r"boxes\[0\] is \(0, 0, 3, 1\)"),
        ({"targets": [[0], [4]]}, r"targets holds 4, outside 0\.\.3"),
        ({"scale": np.nan}, "scale must be finite, got nan"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_name_what_is_wrong(change, message):
    arguments = {
        "features": np.zeros((2, 3, 2, 2)),
        "weight": np.zeros((4, 3)),
        "logits": np.zeros((2, 4)),
        "empty_logits": np.zeros((2, 4)),
        "boxes": [(0, 0, 1, 1)],
        "targets": [[0], [1]],
        "scale": 1.0,
    }
    with pytest.raises(ValueError, match=message):
        box_scores(**(arguments | change))
