import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.errors import InputError

pytest.importorskip("torch")

from experiments.scene_layout import boxes_to_canvas, sample_frames


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(32, 200))
def test_frames_lie_inside_the_canvas_and_never_overlap(seed, count, canvas):
    frames = sample_frames(np.random.default_rng(seed), count, canvas)
    assert frames.shape == (count, 4)
    assert frames.dtype == np.int64
    assert frames.min() >= 0
    assert frames.max() <= canvas
    painted = np.zeros((canvas, canvas), int)
    for r0, c0, r1, c1 in frames:
        assert min(r1 - r0, c1 - c0) >= 0.2 * canvas
        assert max(r1 - r0, c1 - c0) <= 1.5 * min(r1 - r0, c1 - c0)
        painted[r0:r1, c0:c1] += 1
    assert painted.max() == 1


def test_the_same_seed_gives_the_same_frames():
    first, second = (sample_frames(np.random.default_rng(5), 3, 128) for _ in range(2))
    assert (first == second).all()


def test_a_single_image_can_be_told_to_fill_the_canvas():
    rng = np.random.default_rng(0)
    assert all((sample_frames(rng, 1, 64, whole=1.0) == [[0, 0, 64, 64]]).all() for _ in range(20))


@pytest.mark.parametrize(
    ("count", "canvas", "message"),
    [(0, 128, "1 to 4"), (5, 128, "1 to 4"), (1, 31, "at least 32")],
    ids=["no image", "five images", "small canvas"],
)
def test_out_of_range_is_named(count, canvas, message):
    with pytest.raises(InputError, match=message):
        sample_frames(np.random.default_rng(0), count, canvas)


@pytest.mark.parametrize(
    ("box", "frame", "carried"),
    [
        pytest.param((0, 0, 64, 64), (10, 20, 42, 116), (10, 20, 42, 116), id="the whole image is its frame"),
        pytest.param((16, 32, 48, 64), (0, 0, 128, 64), (32, 32, 96, 64), id="twice as high"),
        pytest.param((1, 1, 2, 2), (0, 0, 32, 32), (0, 0, 1, 1), id="rounded outwards, never empty"),
        pytest.param((1, 3, 3, 5), (7, 7, 39, 39), (7, 8, 9, 10), id="half pixels"),
    ],
)
def test_boxes_by_hand(box, frame, carried):
    assert boxes_to_canvas(np.array([box]), np.array(frame), (64, 64)).tolist() == [list(carried)]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_carried_boxes_stay_inside_their_frame(seed):
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.permutation(65)[:4].reshape(2, 2), axis=0).T
    box = np.concatenate([corners[:, 0], corners[:, 1]])[None]
    frame = sample_frames(rng, 2, 96)[0]
    r0, c0, r1, c1 = boxes_to_canvas(box, frame, (64, 64))[0]
    assert frame[0] <= r0 < r1 <= frame[2]
    assert frame[1] <= c0 < c1 <= frame[3]


def test_no_boxes_stay_no_boxes():
    assert boxes_to_canvas(np.zeros((0, 4), np.int64), np.array([0, 0, 9, 9]), (64, 64)).shape == (0, 4)
