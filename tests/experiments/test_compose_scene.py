import numpy as np
import pytest

from camrt.errors import InputError
from experiments.compose_scene import CANVAS, PLACEMENTS, background, compose


def photographs():
    """Every photograph as one flat colour, just large enough."""
    colours = {placement.photograph: 60 * (1 + index) for index, placement in enumerate(PLACEMENTS)}
    return {
        placement.photograph: np.full((*placement.part[2:], 3), colours[placement.photograph], np.uint8)
        for placement in PLACEMENTS
    }


def test_photographs_lie_where_their_frames_say():
    given = photographs()
    scene = np.asarray(compose(given))
    expected = background(CANVAS).copy()
    for placement in PLACEMENTS:
        r0, c0, r1, c1 = placement.frame
        expected[r0:r1, c0:c1] = given[placement.photograph][0, 0]
    assert scene.shape == (CANVAS, CANVAS, 3)
    assert (scene == expected).all()


def test_frames_are_inside_the_canvas_and_apart():
    painted = np.zeros((CANVAS, CANVAS), int)
    for placement in PLACEMENTS:
        r0, c0, r1, c1 = placement.frame
        assert 0 <= r0 < r1 <= CANVAS
        assert 0 <= c0 < c1 <= CANVAS
        painted[r0:r1, c0:c1] += 1
    assert painted.max() == 1


def test_a_missing_or_small_photograph_is_named():
    given = photographs()
    with pytest.raises(InputError, match="coffee"):
        compose({"chelsea": given["chelsea"]})
    with pytest.raises(InputError, match="too small"):
        compose({**given, "coffee": given["coffee"][:50]})
