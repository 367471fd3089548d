import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from camrt.errors import InputError
from camrt.evaluation.box_masks import boxes_to_mask
from camrt.evaluation.metrics.localisation import energy_in_boxes, pointing_game


def by_hand():
    """A 3×4 map whose sum is 10 and whose highest pixel is (1, 2)."""
    return np.array([[[0, 1, 0, 0], [0, 2, 4, 0], [0, 0, 3, 0]]], np.float32)


def boxes(*rows):
    return np.array(rows, np.int64).reshape(-1, 4)


@pytest.mark.parametrize(
    ("rows", "hit", "energy"),
    [
        pytest.param([(1, 2, 2, 3)], True, 0.4, id="exactly the highest pixel"),
        pytest.param([(0, 0, 2, 2)], False, 0.3, id="beside it: the end is not included"),
        pytest.param([(0, 0, 3, 4)], True, 1.0, id="the whole map"),
        pytest.param([(0, 0, 2, 2), (2, 2, 3, 4)], False, 0.6, id="two boxes"),
        pytest.param([(1, 1, 3, 3), (1, 1, 2, 3)], True, 0.9, id="an overlap counts once"),
        pytest.param([], False, 0.0, id="no box"),
    ],
)
def test_vectors_by_hand(rows, hit, energy):
    assert pointing_game(by_hand(), [boxes(*rows)]).tolist() == [hit]
    assert energy_in_boxes(by_hand(), [boxes(*rows)]) == pytest.approx([energy], abs=1e-12)


def test_types_and_shapes():
    maps = np.repeat(by_hand(), 3, 0)
    own = [boxes((0, 0, 1, 1))] * 3
    assert pointing_game(maps, own).dtype == np.bool_
    assert energy_in_boxes(maps, own).dtype == np.float64
    assert pointing_game(maps, own).shape == energy_in_boxes(maps, own).shape == (3,)
    assert len(pointing_game(maps[:0], [])) == len(energy_in_boxes(maps[:0], [])) == 0


def test_each_map_meets_its_own_boxes():
    maps = np.zeros((2, 3, 3))
    maps[0, 0, 0] = maps[1, 2, 2] = 1
    corners = [boxes((0, 0, 1, 1)), boxes((2, 2, 3, 3))]
    assert pointing_game(maps, corners).all()
    assert not pointing_game(maps, corners[::-1]).any()


def test_the_first_of_equal_maxima_counts():
    maps = np.array([[[0, 1], [1, 0]]], float)
    assert pointing_game(maps, [boxes((0, 1, 1, 2))]).all()
    assert not pointing_game(maps, [boxes((1, 0, 2, 1))]).any()


def test_a_map_of_zeros_misses_even_in_a_box_of_everything():
    everything = [boxes((0, 0, 4, 5))]
    assert not pointing_game(np.zeros((1, 4, 5)), everything).any()
    assert energy_in_boxes(np.zeros((1, 4, 5)), everything).tolist() == [0.0]


def test_a_map_below_zero_still_points():
    assert pointing_game(np.array([[[-3.0, -1.0]]]), [boxes((0, 1, 1, 2))]).all()


@pytest.mark.parametrize("scale", [1e-300, 5e-324, 1e300], ids=str)
def test_energy_at_the_ends_of_float64(scale):
    maps = np.full((1, 8, 8), scale)
    assert energy_in_boxes(maps, [boxes((0, 0, 4, 8))]) == pytest.approx([0.5])


saliencies = hnp.arrays(
    np.float32,
    st.tuples(st.just(1), st.integers(1, 9), st.integers(1, 9)),
    elements=st.floats(0, 1, width=32),
)


@st.composite
def maps_with_boxes(draw):
    maps = draw(saliencies)
    height, width = maps.shape[1:]
    rows = []
    for _ in range(draw(st.integers(0, 3))):
        r0, c0 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        rows.append((r0, c0, draw(st.integers(r0 + 1, height)), draw(st.integers(c0 + 1, width))))
    return maps, boxes(*rows)


@settings(max_examples=60, deadline=None)
@given(maps_with_boxes())
def test_energy_is_a_share_that_does_not_know_the_scale(case):
    maps, own = case
    energy = energy_in_boxes(maps, [own])
    assert 0 <= energy[0] <= 1
    assert energy_in_boxes(maps.astype(np.float64) * 8, [own]) == pytest.approx(energy)
    slow = sum(
        maps[0, r, c].astype(float)
        for r, c in zip(*np.nonzero(boxes_to_mask(own, maps[0].shape)), strict=True)
    )
    if maps.any():
        assert energy[0] == pytest.approx(slow / maps.astype(np.float64).sum(), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(maps_with_boxes())
def test_more_boxes_never_hurt_and_everything_always_hits(case):
    maps, own = case
    everything = boxes((0, 0, *maps.shape[1:]))
    more = np.concatenate([own, everything])
    assert pointing_game(maps, [own]) <= pointing_game(maps, [more])
    assert energy_in_boxes(maps, [own]) <= energy_in_boxes(maps, [more]) + 1e-12
    assert pointing_game(maps, [everything])[0] == maps.any()


@settings(max_examples=40, deadline=None)
@given(maps_with_boxes())
def test_mirrored_maps_and_boxes_keep_their_energy(case):
    maps, own = case
    width = maps.shape[2]
    mirrored = own.copy()
    mirrored[:, [1, 3]] = width - own[:, [3, 1]]
    assert energy_in_boxes(maps[..., ::-1], [mirrored]) == pytest.approx(energy_in_boxes(maps, [own]))


@pytest.mark.parametrize("protocol", [pointing_game, energy_in_boxes], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("maps", "own", "message"),
    [
        pytest.param(np.ones((3, 4)), [boxes()], r"\(N, H, W\)", id="one map without its axis"),
        pytest.param(np.ones((1, 0, 4)), [boxes()], r"\(N, H, W\)", id="no pixels"),
        pytest.param(np.ones((2, 3, 4)), [boxes()], "2 maps need 2", id="too few arrays of boxes"),
        pytest.param(np.full((1, 3, 4), np.nan), [boxes()], "NaN", id="NaN"),
        pytest.param(np.full((1, 3, 4), np.inf), [boxes()], "infinity", id="infinity"),
        pytest.param(np.ones((1, 3, 4), complex), [boxes()], "real", id="complex"),
        pytest.param(np.ones((1, 3, 4)), [np.ones((2, 3), int)], r"\(n, 4\)", id="three numbers a box"),
        pytest.param(np.ones((1, 3, 4)), [np.ones((1, 4))], "whole pixels", id="fractional boxes"),
        pytest.param(np.ones((1, 3, 4)), [boxes((0, 0, 4, 4))], "outside", id="past the last row"),
        pytest.param(np.ones((1, 3, 4)), [boxes((0, -1, 1, 1))], "outside", id="before the first column"),
        pytest.param(np.ones((1, 3, 4)), [boxes((1, 1, 1, 2))], "empty", id="no rows"),
    ],
)
def test_bad_input_is_named(protocol, maps, own, message):
    with pytest.raises(InputError, match=message):
        protocol(maps, own)


def test_energy_refuses_a_signed_map():
    with pytest.raises(InputError, match="negative"):
        energy_in_boxes(np.array([[[1.0, -1.0]]]), [boxes((0, 0, 1, 1))])
