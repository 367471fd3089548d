"""PNG masks: their values, the folder beside the images, and how several masks are one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camrt.errors import DataError
from camrt.evaluation.datasets import Dataset, Mask, read_dataset, union_pixels
from camrt.evaluation.datasets.image_probe import read_mask
from camrt.evaluation.datasets.regions import PngRegion, PolygonRegion

SIZE = (6, 8)


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE[::-1]).save(path)
    return path


def png(path: Path, values: Any, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = Image.fromarray(np.broadcast_to(np.asarray(values, np.uint8), SIZE).copy())
    if mode == "P":
        opened.putpalette([0] * 768)  # indices count, not colours
    (opened.convert(mode) if mode not in ("L", "P") else opened).save(path)
    return path


def read(root: Path) -> Dataset:
    return read_dataset(root, labels=("cat", "dog"), num_classes=2, kind="masks")


def problems(dataset: Dataset) -> list[str]:
    return [str(problem).removeprefix(f"{dataset.root}/") for problem in dataset.problems]


# ---- values ----


@pytest.mark.parametrize(("mode", "value"), [("1", 255), ("L", 1), ("L", 255), ("P", 1), ("P", 255)])
def test_what_marks_an_object(tmp_path: Path, mode: str, value: int) -> None:
    values = np.zeros(SIZE)
    values[2:4, 1:7] = value
    np.testing.assert_array_equal(read_mask(png(tmp_path / "a.png", values, mode), SIZE), values > 0)


@pytest.mark.parametrize(
    ("values", "mode", "words"),
    [
        (128, "L", "0 and 1 or 0 and 255; this one also has 128"),
        (np.arange(48).reshape(SIZE), "L", r"also has 2, 3, 4, 5, 6, 7, 8, 9, \.\.\."),
        (np.arange(48).reshape(SIZE) % 2 * 254 + 1, "L", "both 1 and 255"),
        (0, "RGB", "not RGB"),
        (0, "LA", "not LA"),
    ],
)
def test_other_values_are_refused(tmp_path: Path, values: Any, mode: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_mask(png(tmp_path / "a.png", values, mode), SIZE)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_mask(tmp_path / "a.png", SIZE)
    with pytest.raises(DataError, match="not a regular file"):
        read_mask(tmp_path, SIZE)
    Image.new("L", SIZE[::-1]).save(tmp_path / "a.png", format="jpeg")
    with pytest.raises(DataError, match="not a PNG file"):
        read_mask(tmp_path / "a.png", SIZE)


def test_a_mask_that_changes_after_reading_is_an_error(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    png(tmp_path / "masks" / "a.png", 255)
    (mask,) = read(tmp_path).samples[0].masks
    png(tmp_path / "masks" / "a.png", 7)
    with pytest.raises(DataError, match=r"a\.png: a mask's values"):
        mask.pixels(SIZE)
    with pytest.raises(DataError, match="its image 6×8"):
        mask.pixels((8, 6))


def test_scaling_takes_the_nearest_pixel(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 2, SIZE)
    region = PngRegion(png(tmp_path / "a.png", values), scaled=True)
    np.testing.assert_array_equal(region.pixels((18, 24)), np.kron(values, np.ones((3, 3))))
    np.testing.assert_array_equal(region.pixels((2, 8)), values[1::3])


# ---- the folder ----


def test_images_with_masks_and_what_to_ignore(tmp_path: Path) -> None:
    left, top = np.zeros(SIZE), np.zeros(SIZE)
    left[:, :3] = 255
    top[:2] = 1
    for name in ("images/cat/a.jpg", "images/dog/a.jpg", "images/dog/b.jpg"):
        image(tmp_path / name)
    png(tmp_path / "masks" / "cat" / "a.png", left)
    png(tmp_path / "ignore" / "cat" / "a.png", top)
    png(tmp_path / "masks" / "dog" / "a.png", 0)
    png(tmp_path / "ignore" / "dog" / "b.png", top)
    found = read(tmp_path)
    assert problems(found) == ["images/dog/b.jpg: no mask"]
    assert [(sample.name, sample.label) for sample in found.samples] == [
        ("images/cat/a.jpg", 0),
        ("images/dog/a.jpg", 1),
        ("images/dog/b.jpg", 1),
    ]
    first, second, third = (sample.masks[0].pixels(SIZE) for sample in found.samples)
    np.testing.assert_array_equal(first, np.where(left > 0, 1, np.where(top > 0, 255, 0)))
    assert not second.any()
    np.testing.assert_array_equal(third, 255 * top)


def test_a_flat_folder_with_its_faults(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png", "d.png", "d.bmp"):
        image(tmp_path / name)
    png(tmp_path / "masks" / "a.png", 255)
    png(tmp_path / "masks" / "b.png", 3)
    png(tmp_path / "masks" / "d.png", 0)
    png(tmp_path / "masks" / "x.png", 0)
    (tmp_path / "masks" / "y.jpg").write_bytes(b"")
    (tmp_path / "masks" / "c.png").write_bytes((tmp_path / "masks" / "a.png").read_bytes()[:50])
    png(tmp_path / "ignore" / "a.png", 9)
    found = read(tmp_path)
    assert [(sample.name, sample.label, len(sample.masks)) for sample in found.samples] == [
        ("a.png", None, 0),
        ("b.png", None, 0),
        ("c.png", None, 0),
        ("d.bmp", None, 1),
        ("d.png", None, 1),
    ]
    texts = problems(found)
    assert texts[0] == "masks/y.jpg: masks are NAME.png files; it is left out"
    assert texts[1].startswith("ignore/a.png: a mask's values are")
    assert texts[2].startswith("masks/b.png: a mask's values are")
    assert texts[3].startswith("masks/c.png: truncated or damaged")
    assert texts[4:] == [
        "d.png: d.bmp has the same mask d.png",
        "masks/x.png: there is no readable image of this name",
    ]


# ---- several masks ----


def test_an_object_anywhere_goes_before_ignoring(tmp_path: Path) -> None:
    square = PolygonRegion(((0, 0, 4, 0, 4, 4, 0, 4),))
    wide = PolygonRegion(((2, 0, 8, 0, 8, 6, 2, 6),))
    joined = union_pixels([Mask(0, square), Mask(0, None, (wide,))], SIZE)
    expected = np.zeros(SIZE, np.uint8)
    expected[:, 2:] = 255
    expected[:4, :4] = 1
    np.testing.assert_array_equal(joined, expected)
    np.testing.assert_array_equal(union_pixels([Mask(0, None, (wide,)), Mask(0, square)], SIZE), expected)
    np.testing.assert_array_equal(Mask(0, square, (wide,)).pixels(SIZE), expected)
    assert not union_pixels([], SIZE).any()
