from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from camrt.engine.images.overlay import COLOUR_MAP, _wrap_caption, contact_sheet, overlay
from camrt.errors import InputError


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def lightness(colours: np.ndarray) -> np.ndarray:
    linear = (colours / 255) ** 2.2
    return np.cbrt(linear @ [0.2126, 0.7152, 0.0722])


def test_the_ramp_gets_lighter_throughout() -> None:
    steps = np.diff(lightness(COLOUR_MAP))
    assert COLOUR_MAP.shape == (256, 3)
    assert (steps > 0).all()
    assert steps.max() < 4 * steps.mean()


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (63, 63), (100, 3)])
def test_zeros_leave_the_image_as_it_is(shape: tuple[int, int]) -> None:
    image = noise(63, 47)
    assert np.array_equal(np.asarray(overlay(image, np.zeros(shape), opacity=1.0)), np.asarray(image))


@given(st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None)
def test_every_pixel_lies_between_image_and_colour(level: float, opacity: float) -> None:
    image = noise(4, 6)
    base = np.asarray(image, np.int16)
    drawn = np.asarray(overlay(image, np.full((4, 6), level), opacity=opacity), np.int16)
    at = float(np.float32(level)) * 255
    colours = COLOUR_MAP[[math.floor(at), math.ceil(at)]].astype(np.int16)  # a half may be rounded either way
    assert (drawn >= np.minimum(base, colours.min(axis=0))).all()
    assert (drawn <= np.maximum(base, colours.max(axis=0))).all()


def test_the_most_salient_has_the_opacity_asked_for() -> None:
    image = Image.new("RGB", (2, 1), (0, 0, 0))
    drawn = np.asarray(overlay(image, np.array([[0.0, 1.0]]), opacity=0.5))
    assert drawn[0, 0].tolist() == [0, 0, 0]
    assert drawn[0, 1].tolist() == np.rint(COLOUR_MAP[-1] / 2).astype(int).tolist()


def test_opacity_grows_with_the_saliency() -> None:
    drawn = np.asarray(overlay(Image.new("RGB", (101, 1), "white"), np.linspace(0, 1, 101)[None]), np.int16)
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


def test_sheet_places_images_row_by_row() -> None:
    colours = ["red", "green", "blue"]
    sheet = contact_sheet([Image.new("RGB", (40, 30), colour) for colour in colours], ["a", "b", "c"], 2)
    rows = contact_sheet([Image.new("RGB", (40, 30), "red")], ["a"], 9)
    assert rows.width == 40 + 12
    assert sheet.width == 2 * 46 + 6
    assert sheet.height == 2 * rows.height - 6
    assert sheet.getpixel((10, 10)) == (255, 0, 0)
    assert sheet.getpixel((60, 10)) == (0, 128, 0)
    assert sheet.getpixel((10, 10 + rows.height)) == (0, 0, 255)


@pytest.mark.parametrize("caption", ["", "x" * 500, "Zürich – 猫\nnext", "\0"])
def test_any_caption_stays_in_its_cell(caption: str) -> None:
    sheet = contact_sheet([Image.new("RGB", (40, 30))] * 2, [caption, ""], 2)
    assert np.asarray(sheet)[:, 46:52].min() == 255  # the gap between the cells
    assert np.asarray(sheet)[40:, 52:].min() == 255  # the other's caption


def test_captions_are_wrapped_between_words() -> None:
    font = ImageFont.load_default(13)
    text = "0.270 African elephant, Loxodonta africana"
    lines = _wrap_caption(text, 128, font)
    assert " ".join(lines) == text
    assert len(lines) > 1
    assert all(font.getlength(line) <= 128 for line in lines)
    assert "".join(_wrap_caption("y" * 30, 60, font)) == "y" * 30
    assert _wrap_caption("x " * 500, 60, font)[-1].endswith("...")
    one, more = (contact_sheet([Image.new("RGB", (128, 9))], [words], 1) for words in ("0.270", text))
    assert more.height > one.height


def test_sheet_of_different_sizes() -> None:
    sheet = contact_sheet([Image.new("RGB", (1, 1)), Image.new("RGB", (7, 5))], ["", ""], 1)
    assert sheet.width == 7 + 12


@pytest.mark.parametrize(
    ("images", "captions", "columns", "message"),
    [
        (0, 0, 1, "at least one image"),
        (2, 1, 1, "expected 2 captions, one an image, got 1"),
        (1, 1, 0, "columns must be a whole number, at least 1, got 0"),
    ],
)
def test_sheet_errors(images: int, captions: int, columns: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        contact_sheet([Image.new("RGB", (2, 2))] * images, ["x"] * captions, columns)
