"""Reading annotated images: recognising the format, finding classes, class folders, sizes of images."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from camrt.engine.images.read import read_image
from camrt.errors import DataError, ImageError, InputError
from camrt.evaluation.datasets import Box, ClassIndex, Dataset, Mask, Problem, Sample, read_dataset
from camrt.evaluation.datasets.image_probe import image_size

LABELS = ("n01440764 tench, Tinca tinca", "tabby, tabby cat", "crane", "crane", "Great white shark")


def image(path: Path, width: int = 8, height: int = 6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)
    return path


def problems(dataset: Dataset) -> list[str]:
    return [str(problem).removeprefix(f"{dataset.root}/") for problem in dataset.problems]


# ---- classes ----


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("0", 0),
        (" 4 ", 4),
        ("n01440764", 0),
        ("N01440764 tench, tinca TINCA", 0),
        ("tench", 0),
        ("tench, Tinca tinca", 0),
        ("tinca  tinca", 0),
        ("Tabby", 1),
        ("tabby cat", 1),
        ("great_white_shark", 4),
        ("crane", None),
        ("5", None),
        ("-1", None),
        ("1.0", None),
        ("", None),
        ("cat", None),
        ("99999999999999999999", None),
    ],
)
def test_a_class_is_found_by_index_label_or_synonym(text: str, index: int | None) -> None:
    assert ClassIndex(LABELS, 5).find(text) == index


def test_a_whole_label_goes_before_a_part_of_another() -> None:
    assert ClassIndex(("lynx, cat", "cat"), 2).find("cat") == 1


def test_accents_count_however_they_are_encoded() -> None:
    assert ClassIndex(("caf\u00e9",), 1).find("cafe\u0301") == 0


@pytest.mark.parametrize(
    ("labels", "text", "words"),
    [
        (LABELS, "crane", "several classes are called 'crane': 2, 3"),
        (LABELS, "17", "no class '17'; the model's go from 0 to 4"),
        (LABELS, "dog", "no class is called 'dog'"),
        (None, "dog", "labels are not known, so 'dog' must be an index"),
    ],
)
def test_the_reason_for_no_class(labels: tuple[str, ...] | None, text: str, words: str) -> None:
    assert words in ClassIndex(labels, 5).reason(text)


@pytest.mark.parametrize(("labels", "count"), [(None, 0), (("a",), 2)])
def test_impossible_classes_are_refused(labels: tuple[str, ...] | None, count: int) -> None:
    with pytest.raises(InputError):
        ClassIndex(labels, count)


# ---- class folders ----


def test_folders_are_classes(tmp_path: Path) -> None:
    image(tmp_path / "tabby" / "b.png")
    image(tmp_path / "tabby" / "more" / "a.png")
    image(tmp_path / "n01440764" / "a.png")
    image(tmp_path / "dog" / "a.png")
    image(tmp_path / "loose.png")
    (tmp_path / "4").mkdir()
    found = read_dataset(tmp_path, labels=LABELS, num_classes=5)
    assert found.kind == "folder"
    assert [(sample.name, sample.label) for sample in found.samples] == [
        ("dog/a.png", None),
        ("loose.png", None),
        ("n01440764/a.png", 0),
        ("tabby/b.png", 1),
        ("tabby/more/a.png", 1),
    ]
    assert problems(found) == [
        "4: the folder has no readable image",
        "dog: no class is called 'dog'; its images have no class",
    ]
    assert not found.notes


def test_unknown_folders_as_many_as_classes_are_taken_in_order(tmp_path: Path) -> None:
    for name in ("yes", "no"):
        image(tmp_path / name / "a.png")
    found = read_dataset(tmp_path, labels=("healthy", "ill"), num_classes=2)
    assert [(sample.name, sample.label) for sample in found.samples] == [("no/a.png", 0), ("yes/a.png", 1)]
    assert not found.problems
    assert "in the order of their names" in found.notes[0]


def test_one_known_folder_forbids_guessing(tmp_path: Path) -> None:
    for name in ("ill", "no"):
        image(tmp_path / name / "a.png")
    found = read_dataset(tmp_path, labels=("healthy", "ill"), num_classes=2)
    assert [sample.label for sample in found.samples] == [1, None]
    assert len(found.problems) == 1


def test_a_flat_folder_has_no_classes(tmp_path: Path) -> None:
    image(tmp_path / "b.png")
    image(tmp_path / "a.png")
    found = read_dataset(tmp_path, labels=None, num_classes=1)
    assert found.samples == (
        Sample("a.png", tmp_path / "a.png", None),
        Sample("b.png", tmp_path / "b.png", None),
    )
    assert not found.problems
    assert len(found) == 2


def test_unreadable_images_are_listed_and_left_out(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    found = read_dataset(tmp_path, labels=None, num_classes=1)
    assert [sample.name for sample in found.samples] == ["a.png"]
    assert problems(found) == ["b.png: not an image that Pillow can read"]


def test_an_empty_folder_is_a_problem(tmp_path: Path) -> None:
    found = read_dataset(tmp_path, labels=None, num_classes=1)
    assert not found.samples
    assert "no image in this folder" in problems(found)[0]


# ---- recognising ----


def coco(path: Path, **content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": [], **content}))
    return path


def csv_file(path: Path) -> Path:
    path.write_text("file,label\na.png,0\n")
    return path


def voc_file(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("<annotation/>")
    return path


def wsol_file(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("a.png\n")
    return path


def mask_file(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.new("L", (8, 6)).save(path)
    return path


MAKERS = {
    "csv": (csv_file, "boxes.csv"),
    "coco": (coco, "annotations/instances_val.json"),
    "voc": (voc_file, "Annotations/a.xml"),
    "wsol": (wsol_file, "metadata/image_ids.txt"),
    "masks": (mask_file, "masks/a.png"),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_each_kind_is_recognised(tmp_path: Path, kind: str) -> None:
    image(tmp_path / "a.png")
    make, place = MAKERS[kind]
    made = make(tmp_path / place)
    assert read_dataset(tmp_path, labels=None, num_classes=1).kind == kind
    assert read_dataset(tmp_path, labels=None, num_classes=1, kind=kind).kind == kind
    given = made if made.suffix in (".json", ".csv") else made.parent
    assert read_dataset(tmp_path, annotations=given, labels=None, num_classes=1).kind == kind
    assert read_dataset(str(tmp_path), labels=None, num_classes=1, kind="folder").kind == "folder"


def test_xml_beside_the_images_is_voc(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    voc_file(tmp_path / "a.xml")
    found = read_dataset(tmp_path, labels=None, num_classes=1)
    assert found.kind == "voc"
    assert not found.problems


def test_tables_and_settings_of_other_kinds_are_not_taken_for_annotations(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    (tmp_path / "results.csv").write_text("model,score\nx,1\n")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "masks").mkdir()
    assert read_dataset(tmp_path, labels=None, num_classes=1).kind == "folder"


def test_several_annotations_must_be_told_apart(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    csv_file(tmp_path / "a.csv")
    coco(tmp_path / "annotations.json")
    with pytest.raises(DataError, match=r"several annotations: .*a\.csv, .*annotations\.json; say which"):
        read_dataset(tmp_path, labels=None, num_classes=1)
    assert read_dataset(tmp_path, labels=None, num_classes=1, kind="coco").kind == "coco"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"kind": "yolo"}, InputError, "must be one of folder, csv"),
        ({"kind": "coco"}, DataError, "no annotations of kind 'coco'"),
        ({"kind": "folder", "annotations": "a.csv"}, InputError, "no annotations but"),
        ({"annotations": "none.csv"}, DataError, "no such file or folder"),
        ({"annotations": "a.png"}, DataError, "not annotations of a known kind"),
        ({"annotations": "empty"}, DataError, "not annotations of a known kind"),
        ({"annotations": "a.csv", "kind": "voc"}, DataError, "kind 'voc' are in a folder"),
        ({"annotations": "empty", "kind": "coco"}, DataError, "kind 'coco' are in a file"),
        ({"annotations": "empty", "kind": "wsol"}, DataError, "no image_ids.txt"),
        ({"annotations": "pipe.csv"}, DataError, "not a regular file"),
        ({"difficult": True, "annotations": "a.csv"}, InputError, "belongs to kind 'voc'"),
        ({"root": "none"}, DataError, "no such folder"),
        ({"labels": ("a", "b")}, InputError, "expected 1 labels"),
    ],
)
def test_wrong_arguments_are_refused(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    image(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.csv").write_text("file\n")
    given: dict[str, Any] = {"labels": None, "num_classes": 1, **arguments}
    root = tmp_path / given.pop("root", "empty")
    if "annotations" in given:
        place = given["annotations"]
        given["annotations"] = tmp_path / ("sub" if place == "a.csv" else "") / place
    with pytest.raises(error, match=words):
        read_dataset(root, **given)


# ---- values ----


@pytest.mark.parametrize("edges", [(2, 0, 1, 1), (0, 2, 1, 1), (-1, 0, 1, 1), (0, 0, float("nan"), 1)])
def test_a_box_is_checked_when_it_is_made(edges: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="a box"):
        Box(None, *edges)


def test_values_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs a region"):
        Mask(None, None)
    sample = Sample("a", tmp_path, None)
    with pytest.raises(InputError, match="each name once"):
        Dataset("folder", tmp_path, (sample, sample), ())


def test_a_problem_in_words() -> None:
    assert str(Problem(Path("a/b.csv"), 7, "wrong")) == "a/b.csv:7: wrong"
    assert str(Problem(Path("a/b.csv"), None, "wrong")) == "a/b.csv: wrong"


# ---- the sizes of images ----


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("form", ["jpeg", "png", "tiff", "webp"])
def test_the_size_is_that_of_the_upright_image(tmp_path: Path, form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{form}"
    Image.new("RGB", (9, 4)).save(path, exif=exif)
    assert image_size(path) == read_image(path).size[::-1]


def test_an_orientation_behind_the_pixels_of_png_counts(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.png"
    Image.new("RGB", (9, 4)).save(path, exif=exif)
    data = path.read_bytes()
    at = data.index(b"eXIf") - 4
    length = 12 + int.from_bytes(data[at : at + 4], "big")
    chunk, rest = data[at : at + length], data[:at] + data[at + length :]
    path.write_bytes(rest[:-12] + chunk + rest[-12:])
    assert read_image(path).size == (4, 9)
    assert image_size(path) == (9, 4)


def test_a_size_needs_no_pixels(tmp_path: Path) -> None:
    path = image(tmp_path / "a.png", 300, 200)
    path.write_bytes(path.read_bytes()[:60])
    assert image_size(path) == (200, 300)
    with pytest.raises(ImageError):
        read_image(path)


@pytest.mark.parametrize("side", [9_500, 60_000])
def test_images_that_are_too_large_are_refused(tmp_path: Path, side: int) -> None:
    path = image(tmp_path / "a.png")
    data = bytearray(path.read_bytes())
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(ImageError, match="decompression bomb"):
        image_size(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_images_give_a_size_or_per_image_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = (
        tmp_path_factory.mktemp("damaged") / f"a.{data.draw(st.sampled_from(['png', 'jpeg', 'tiff', 'gif']))}"
    )
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        height, width = image_size(path)
    except ImageError:
        return
    assert height > 0
    assert width > 0
