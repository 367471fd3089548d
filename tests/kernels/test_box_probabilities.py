import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.kernels.box_probabilities import box_probabilities, box_probabilities_pair, reference
from helpers.tolerances import assert_close

SHAPES = [
    (1, 1, 1, 1),
    (3, 7, 5, 10),
    (2, 7, 7, 63),
    (2, 4, 4, 200),
    (5, 3, 3, 64),
    (0, 2, 2, 3),
    (1, 7, 7, 1000),
]
# (what the logits, what the contributions are multiplied by)
RANGES = [(1, 0.1), (3, 1), (1e4, 1e-3), (1e4, 1e3), (1, 20), (0, 0), (300, 3)]


def all_boxes(h, w, largest=99):
    return np.array(
        [
            (r, c, r + a, c + b)
            for a in range(1, min(h, largest) + 1)
            for b in range(1, min(w, largest) + 1)
            for r in range(h - a + 1)
            for c in range(w - b + 1)
        ]
    )


def assert_relatively_close(actual, expected):
    """Each probability by itself, unless float32 cannot hold it."""
    rtol = 2e-6 if actual.dtype == np.float32 else 1e-10  # 1e4 of logit times 1e-14
    normal = expected > np.finfo(np.float32).tiny
    np.testing.assert_allclose(actual[normal], expected[normal], rtol=rtol)
    assert (actual[~normal] <= 2 * np.finfo(np.float32).tiny).all()


@pytest.mark.parametrize("scale", RANGES, ids=str)
@pytest.mark.parametrize("largest", [2, 99], ids=lambda n: f"sides-to-{n}")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_native_agrees_with_reference(native, shape, largest, scale, normal, rng, threads, strided):
    n, h, w, classes = shape
    x = normal(*shape) * normal(1).dtype.type(scale[1])
    delete, keep = (normal(n, classes) * normal(1).dtype.type(scale[0]) for _ in range(2))
    boxes = all_boxes(h, w, largest)
    targets = rng.integers(0, classes, (n, 3))
    deleted, kept = box_probabilities_pair(
        strided(x), strided(delete), strided(keep), boxes, targets, threads=threads
    )
    for sign, logits, actual in ((-1, delete, deleted), (1, keep, kept)):
        wide = reference.box_probabilities(
            x.astype(np.float64), logits.astype(np.float64), boxes, targets, sign=sign
        )
        assert actual.dtype == x.dtype
        assert np.isfinite(actual).all()
        assert_relatively_close(actual, wide)
        alone = box_probabilities(x, logits, boxes, targets, sign=sign, threads=threads)
        assert_relatively_close(alone, wide)
        assert_close(alone, reference.box_probabilities(x, logits, boxes, targets, sign=sign), factor=100)


@pytest.mark.parametrize("sign", [-1, 1])
def test_reference_agrees_with_loops(sign, normal, rng):
    x, logits = normal(2, 3, 2, 4), normal(2, 4)
    boxes = all_boxes(3, 2)
    targets = rng.integers(0, 4, (2, 2))
    out = reference.box_probabilities(x, logits, boxes, targets, sign=sign)
    for n, p, t in np.ndindex(out.shape):
        r0, c0, r1, c1 = boxes[p]
        powers = [
            math.exp(
                float(logits[n, k])
                + sign * math.fsum(float(x[n, r, c, k]) for r in range(r0, r1) for c in range(c0, c1))
            )
            for k in range(4)
        ]
        assert out[n, p, t] == pytest.approx(powers[targets[n, t]] / math.fsum(powers), rel=1e-6)


@pytest.mark.parametrize("largest", [2, 99], ids=lambda n: f"sides-to-{n}")
def test_all_classes_sum_to_one(largest, normal):
    x, logits = normal(2, 5, 5, 150), normal(2, 150)
    targets = np.tile(np.arange(150), (2, 1))
    out = box_probabilities(x, logits, all_boxes(5, 5, largest), targets, sign=1)
    assert_close(out.sum(axis=2, dtype=np.float64), np.ones(out.shape[:2]), out.dtype)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_contributions_that_are_not_finite_stay_in_their_boxes(value, normal, dtype):
    x, logits = normal(2, 5, 5, 70), normal(2, 70)
    x[0, 1, 1, 65] = value
    boxes = all_boxes(5, 5)
    targets = [[3, 65], [3, 65]]
    inside = (boxes[:, 0] <= 1) & (boxes[:, 2] > 1) & (boxes[:, 1] <= 1) & (boxes[:, 3] > 1)
    for sign, out in zip((-1, 1), box_probabilities_pair(x, logits, logits, boxes, targets), strict=True):
        expected = reference.box_probabilities(x, logits, boxes, np.array(targets), sign=sign)
        assert_close(out, expected)
        assert np.isfinite(out[0, ~inside]).all()
        assert np.isfinite(out[1]).all()
        if sign * value != -np.inf:
            assert np.isnan(out[0, inside]).all()


@pytest.mark.parametrize("at", [0, 69], ids=["first-class", "last-class"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite(value, at, normal):
    x, logits = normal(1, 4, 4, 70), normal(1, 70)
    logits[0, at] = value
    out = box_probabilities(x, logits, all_boxes(4, 4), [[0, 3, 69]], sign=-1)
    if value == -np.inf:
        assert (out[..., 0 if at == 0 else 2] == 0).all()
        assert np.isfinite(out).all()
        assert (out[..., 1] > 0).all()
    else:
        assert np.isnan(out).all()


def test_a_run_of_impossible_classes_is_passed_over(normal):
    x, logits = normal(1, 3, 3, 130) * 50, normal(1, 130)
    logits[0, :100] = -np.inf  # the whole first block of classes
    boxes = all_boxes(3, 3)
    out = box_probabilities(x, logits, boxes, [[0, 120]], sign=1)
    expected = reference.box_probabilities(x, logits, boxes, np.array([[0, 120]]), sign=1)
    assert_close(out, expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 140), st.floats(0, 40), st.integers(0, 99))
def test_pair_of_nothing_is_the_plain_softmax(h, w, classes, scale, seed):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.standard_normal((2, classes))).astype(np.float32)
    nothing = np.zeros((2, h, w, classes), np.float32)
    targets = rng.integers(0, classes, (2, 1))
    pair = box_probabilities_pair(nothing, logits, logits, all_boxes(h, w), targets)
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    softmax = np.take_along_axis(powers / powers.sum(axis=1, keepdims=True), targets, axis=1)
    for out in pair:
        assert_close(out, np.broadcast_to(softmax[:, None], out.shape), np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sign": 0}, r"sign must be -1 or \+1, got 0"),
        (
            {"logits": np.zeros((2, 5))},
            r"logits must have shape \(2, 4\) to match contributions, got \(2, 5\)",
        ),
        ({"logits": np.zeros((2, 4), np.float32)}, "logits must be float64 like the other arrays"),
        ({"targets": [[0], [4]]}, r"targets holds 4, outside 0\.\.3"),
        ({"targets": [0, 1]}, r"targets must have shape \(2, any\), got \(2,\)"),
        ({"boxes": [(0, 0, 4, 1)]}, r"boxes\[0\] is \(0, 0, 4, 1\)"),
        ({"contributions": np.zeros((2, 3, 3, 0)), "logits": np.zeros((2, 0))}, "at least one class"),
        ({"threads": -2}, "threads must be at least 1, got -2"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_name_what_is_wrong(change, message):
    arguments = {
        "contributions": np.zeros((2, 3, 3, 4)),
        "logits": np.zeros((2, 4)),
        "boxes": [(0, 0, 1, 1)],
        "targets": [[0], [1]],
        "sign": 1,
    }
    with pytest.raises(ValueError, match=message):
        box_probabilities(**(arguments | change))
    if "logits" in change and "contributions" not in change:
        with pytest.raises(ValueError, match=message.replace("logits", "logits_keep", 1)):
            box_probabilities_pair(
                arguments["contributions"], arguments["logits"], change["logits"], [(0, 0, 1, 1)], [[0], [1]]
            )


def test_no_boxes_and_no_targets():
    x, logits = np.zeros((2, 3, 3, 4)), np.zeros((2, 4))
    assert box_probabilities(x, logits, np.empty((0, 4), int), [[0], [1]], sign=1).shape == (2, 0, 1)
    assert box_probabilities(x, logits, [(0, 0, 1, 1)], np.empty((2, 0), int), sign=1).shape == (2, 1, 0)
