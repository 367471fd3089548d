from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from camrt.engine.images.colormaps import colour_table
from camrt.engine.images.overlay import draw_heat, overlay
from camrt.engine.images.style import DrawingStyle, StyleOptions
from camrt.errors import InputError
from camrt.export.geometry.region import Region

EMBER = colour_table("ember")


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def lightness(colours: np.ndarray) -> np.ndarray:
    linear = (colours / 255) ** 2.2
    return np.cbrt(linear @ [0.2126, 0.7152, 0.0722])


def test_the_ramp_gets_lighter_throughout() -> None:
    steps = np.diff(lightness(EMBER))
    assert EMBER.shape == (256, 3)
    assert (steps > 0).all()
    assert steps.max() < 4 * steps.mean()


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (63, 63), (100, 3)])
def test_zeros_leave_the_image_as_it_is(shape: tuple[int, int]) -> None:
    image = noise(63, 47)
    assert np.array_equal(np.asarray(overlay(image, np.zeros(shape), opacity=1.0, fade=0)), np.asarray(image))


@given(st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None)
def test_every_pixel_lies_between_image_and_colour(level: float, opacity: float) -> None:
    image = noise(4, 6)
    base = np.asarray(image, np.int16)
    drawn = np.asarray(overlay(image, np.full((4, 6), level), opacity=opacity, fade=0), np.int16)
    at = float(np.float32(level)) * 255
    colours = EMBER[[math.floor(at), math.ceil(at)]].astype(np.int16)  # a half may be rounded either way
    assert (drawn >= np.minimum(base, colours.min(axis=0))).all()
    assert (drawn <= np.maximum(base, colours.max(axis=0))).all()


def test_the_most_salient_has_the_opacity_asked_for() -> None:
    image = Image.new("RGB", (2, 1), (0, 0, 0))
    drawn = np.asarray(overlay(image, np.array([[0.0, 1.0]]), opacity=0.5))
    assert drawn[0, 0].tolist() == [0, 0, 0]
    assert drawn[0, 1].tolist() == np.rint(EMBER[-1] / 2).astype(int).tolist()


def test_opacity_grows_with_the_saliency() -> None:
    drawn = np.asarray(
        overlay(Image.new("RGB", (101, 1), "white"), np.linspace(0, 1, 101)[None], fade=0), np.int16
    )
    change = np.abs(255 - drawn).sum(-1)[0]
    assert (np.diff(change[:30]) >= 0).all()
    assert change[5] < 0.1 * change.max()


def test_resizing_is_bilinear() -> None:
    black = Image.new("RGB", (4, 1))
    near = np.asarray(overlay(black, np.array([[0.0, 1.0]]), opacity=1.0))
    exact = np.asarray(overlay(black, np.array([[0.0, 0.25, 0.75, 1.0]]), opacity=1.0))
    assert np.array_equal(near, exact)


def test_grey_image_and_float32_map() -> None:
    assert overlay(Image.new("L", (3, 2)), np.ones((2, 3), np.float32)).mode == "RGB"


@pytest.mark.parametrize(
    ("saliency", "opacity", "message"),
    [
        (np.zeros((2, 2, 2)), 0.5, r"expected a saliency \(H, W\), got \(2, 2, 2\)"),
        (np.zeros((0, 2)), 0.5, r"expected a saliency"),
        (np.full((2, 2), 1.1), 0.5, r"must lie in \[0, 1\]"),
        (np.full((2, 2), -0.1), 0.5, r"must lie in \[0, 1\]"),
        (np.full((2, 2), np.nan), 0.5, r"must lie in \[0, 1\]"),
        (np.zeros((2, 2)), 1.5, r"opacity must be in \[0, 1\], got 1\.5"),
        (np.zeros((2, 2)), float("nan"), r"opacity must be in \[0, 1\], got nan"),
    ],
    ids=["3-D", "empty", "above", "below", "nan", "opacity", "opacity-nan"],
)
def test_errors(saliency: np.ndarray, opacity: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        overlay(Image.new("RGB", (2, 2)), saliency, opacity=opacity)


def drawn(image: Image.Image, saliency: Any, **style: Any) -> np.ndarray:
    return np.asarray(overlay(image, np.asarray(saliency, np.float32), **style), np.int16)


def test_what_is_faded_has_less_colour_and_less_light() -> None:
    orange = Image.new("RGB", (2, 2), (240, 120, 0))
    spread = [int(np.ptp(drawn(orange, np.zeros((2, 2)), fade=fade)[0, 0])) for fade in (0, 0.5, 1)]
    light = [drawn(orange, np.zeros((2, 2)), fade=fade)[0, 0].sum() for fade in (0, 0.5, 1)]
    assert spread[0] == 240 > spread[1] > spread[2] == 0
    assert light[0] > light[1] > light[2]


def test_below_the_threshold_nothing_is_drawn() -> None:
    row = drawn(Image.new("RGB", (3, 1)), [[0.2, 0.39, 0.4]], threshold=0.4, opacity=1)
    assert row[0, :2].max() == 0 < row[0, 2].max()


def test_a_mask_keeps_what_reaches_the_threshold_and_fades_the_rest() -> None:
    image = Image.new("RGB", (3, 1), (200, 100, 50))
    row = drawn(image, [[0.3, 0.5, 1]], mode="mask", fade=1)
    assert row[0, 1:].tolist() == [[200, 100, 50]] * 2
    assert np.ptp(row[0, 0]) == 0
    assert drawn(image, [[0.3, 0.5, 1]], mode="mask", threshold=0.2)[0].tolist() == [[200, 100, 50]] * 3


def test_contours_lie_where_the_saliency_passes_their_level() -> None:
    slope = np.tile(np.linspace(0, 1, 201, dtype=np.float32), (40, 1))
    row = drawn(Image.new("RGB", (201, 40), "white"), slope, mode="contour", fade=0)[20]
    dark = np.flatnonzero(row.sum(-1) < 3 * 255)
    groups = np.split(dark, np.flatnonzero(np.diff(dark) > 1) + 1)
    assert [round(float(group.mean())) for group in groups] == [50, 100, 150]
    one = drawn(Image.new("RGB", (201, 40), "white"), slope, mode="contour", fade=0, threshold=0.6)[20]
    assert abs(np.flatnonzero(one.sum(-1) < 3 * 255).mean() - 120) < 1
    flat = np.full((40, 201), 0.5)  # everywhere on the line is nowhere across it
    assert drawn(Image.new("RGB", (201, 40), "white"), flat, mode="contour").shape == (40, 201, 3)
    assert drawn(Image.new("RGB", (1, 1)), [[0.5]], mode="contour").shape == (1, 1, 3)


def test_what_the_model_did_not_see_is_told_apart() -> None:
    image, region = Image.new("RGB", (60, 40), (200, 180, 160)), Region(10, 5, 50, 35)
    none, dim, line = (
        drawn(image, np.zeros((4, 4)), region=region, fade=0, outside=outside)
        for outside in ("none", "dim", "outline")
    )
    assert (none == np.asarray(image)).all()
    inside = (slice(5, 35), slice(10, 50))
    assert (dim[inside] == none[inside]).all()
    assert dim[:5].max() < 0.5 * none[:5].min()
    assert (line[20, 30] == none[20, 30]).all()
    assert line[5, 30].max() == 0
    assert line[6, 30].min() == 255
    assert (line[:5] == none[:5]).all()


def test_the_peak_and_boxes_are_marked() -> None:
    saliency = np.zeros((50, 50))
    saliency[30, 20] = 1
    marked = drawn(Image.new("RGB", (50, 50), "gray"), saliency, peak=True, fade=0, opacity=0)
    white = np.argwhere(marked.min(-1) == 255)
    assert np.abs(white.mean(0) - (30, 20)).max() < 1
    nothing = drawn(Image.new("RGB", (50, 50), "gray"), np.zeros((50, 50)), peak=True, fade=0)
    assert (nothing == 128).all()
    boxed = drawn(Image.new("RGB", (50, 50), "gray"), saliency, boxes=[[5, 10, 45, 40]], fade=0, opacity=0)
    assert boxed[10, 25].max() == 0
    assert boxed[11, 25].min() == 255
    assert boxed[25, 25].tolist() == [128] * 3
    beyond = drawn(
        Image.new("RGB", (9, 9)), np.zeros((9, 9)), boxes=np.array([[-1e9, 1, 1e9, 1.5], [3, 3, 2, 2]])
    )
    assert beyond.shape == (9, 9, 3)
    assert (drawn(Image.new("RGB", (9, 9)), np.zeros((9, 9)), boxes=[]) == 0).all()


def test_a_legend_stands_beneath() -> None:
    image = noise(60, 300)
    with_bar = overlay(image, np.zeros((60, 300)), legend=True, fade=0)
    assert with_bar.size[0] == 300
    assert with_bar.size[1] > 60
    assert np.array_equal(np.asarray(with_bar)[:60], np.asarray(image))


@pytest.mark.parametrize("name", ["inferno", "viridis", "turbo", "jet", "cividis"])
def test_colour_maps_of_matplotlib_by_name(name: str) -> None:
    pytest.importorskip("matplotlib")
    assert drawn(Image.new("RGB", (1, 1)), [[1]], colormap=name, opacity=1)[0, 0].tolist() == (
        colour_table(name)[-1].tolist()
    )
    assert colour_table(name).shape == (256, 3)


def test_a_colour_map_of_ones_own() -> None:
    two = np.array([[0, 0, 0], [10, 20, 30]], np.uint8)
    assert colour_table(two)[[0, 128, 255]].tolist() == [[0, 0, 0], [5, 10, 15], [10, 20, 30]]


def test_a_large_photograph_is_drawn_in_strips_without_seams() -> None:
    image = Image.new("RGB", (3000, 800), (90, 120, 150))
    saliency = np.tile(np.linspace(0, 1, 30, dtype=np.float32), (8, 1))
    for mode in ("blend", "contour"):
        assert np.ptp(drawn(image, saliency, mode=mode), axis=0).max() == 0


def test_heat_alone() -> None:
    assert np.asarray(draw_heat(np.ones((2, 3)))).tolist() == [[EMBER[-1].tolist()] * 3] * 2


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ({"mode": "blur"}, "mode='blur' must be one of 'blend', 'mask', 'contour'"),
        ({"outside": "cut"}, "outside='cut' must be one of"),
        ({"fade": 2}, r"fade must be in \[0, 1\], got 2"),
        ({"threshold": 1}, "threshold must be below 1"),
        ({"threshold": float("nan")}, "threshold must be in"),
        ({"colormap": "rainbowx"}, "colormap='rainbowx' is none that camrt"),
        ({"colormap": np.zeros((3, 4), np.uint8)}, "a table"),
        ({"colormap": 7}, "a table"),
        ({"boxes": [[1, 2, 3]]}, "boxes are rows of four numbers"),
        ({"boxes": [[1, 2, 3, float("inf")]]}, "boxes are rows of four numbers"),
        ({"boxes": "all"}, "boxes are rows of four numbers"),
    ],
    ids=lambda value: str(value)[:24] if isinstance(value, dict) else "",
)
def test_styles_that_mean_nothing(style: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        overlay(Image.new("RGB", (2, 2)), np.zeros((2, 2)), **style)


def test_the_options_are_the_style() -> None:
    assert set(StyleOptions.__annotations__) == {field.name for field in fields(DrawingStyle)}
