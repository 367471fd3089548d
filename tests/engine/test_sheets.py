from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFont

from camrt.engine.images.sheets import contact_sheet, wrap_caption
from camrt.errors import InputError


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
    lines = wrap_caption(text, 128, font)
    assert " ".join(lines) == text
    assert len(lines) > 1
    assert all(font.getlength(line) <= 128 for line in lines)
    assert "".join(wrap_caption("y" * 30, 60, font)) == "y" * 30
    assert wrap_caption("x " * 500, 60, font)[-1].endswith("...")
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
