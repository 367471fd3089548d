"""Boxes from CSV, PASCAL VOC and the WSOL benchmark: conventions, round trips, and every kind of fault."""

from __future__ import annotations

import csv
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from camrt.evaluation.datasets import Box, Dataset, read_dataset

WIDTH, HEIGHT = 20, 10
LABELS = ("cat", "dog", "bird, crane", "crane, machine")


def image(path: Path, width: int = WIDTH, height: int = HEIGHT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)
    return path


def read(root: Path, **options: object) -> Dataset:
    return read_dataset(root, labels=LABELS, num_classes=4, **options)  # type: ignore[arg-type]


def problems(dataset: Dataset) -> list[str]:
    return [str(problem).removeprefix(f"{dataset.root}/") for problem in dataset.problems]


def table(root: Path, text: str) -> Dataset:
    image(root / "a.png")
    (root / "boxes.csv").write_bytes(text.encode())
    return read(root, annotations=root / "boxes.csv")


# ---- CSV ----


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("file,label,x0,y0,x1,y1", "a.png,dog,1,2,5.5,7"),
        ("image,class,xmin,ymin,xmax,ymax", "a.png,1,1,2,5.5,7"),
        ("Filename, X, Y, W, H, Label", "./a.png, 1, 2, 4.5, 5, DOG"),
        ("path;label;x0;y0;x1;y1;note", "a.png;dog;1;2;5.5;7;x"),
        ("\ufefffile\tlabel\tx0\ty0\tx1\ty1", "a.png\tdog\t1e0\t2\t5.5\t7"),
        ("filename,width,height,class,xmin,ymin,xmax,ymax", "a.png,20,10,dog,1,2,5.5,7"),
    ],
)
def test_the_ways_to_write_a_table(tmp_path: Path, header: str, row: str) -> None:
    found = table(tmp_path, f"{header}\r\n{row}\r\n\r\n")
    (sample,) = found.samples
    assert sample.boxes == (Box(1, 1, 2, 5.5, 7),)
    assert sample.label == 1
    assert not found.problems
    assert not found.notes
    assert not found.inclusive_boxes


@pytest.mark.parametrize(
    ("row", "boxes", "words"),
    [
        ("a.png,dog,1,1,1,5", 0, "boxes.csv:2: box (1, 1, 1, 5) is empty; it is left out"),
        ("a.png,dog,5,1,1,5", 0, "boxes.csv:2: box (5, 1, 1, 5) is inverted; it is left out"),
        ("a.png,dog,20,1,25,5", 0, "boxes.csv:2: box (20, 1, 25, 5) is outside the image of 20×10"),
        ("a.png,dog,-5,1,0,5", 0, "boxes.csv:2: box (-5, 1, 0, 5) is outside the image of 20×10"),
        ("a.png,dog,15,1,25,5", 1, "boxes.csv:2: box (15, 1, 25, 5) reaches outside"),
        ("a.png,dog,1e300,1,2e300,5", 0, "is outside the image"),
        ("a.png,dog,nan,1,2,5", 0, "boxes.csv:2: 'nan' is not a finite number; the box is left out"),
        ("a.png,dog,1,1,inf,5", 0, "'inf' is not a finite number"),
        ("a.png,dog,1_0,1,12,5", 0, "'1_0' is not a finite number"),
        ("a.png,dog,1,1,,5", 0, "'' is not a finite number"),
        ("a.png,wolf,1,1,5,5", 0, "boxes.csv:2: no class is called 'wolf'; the row is left out"),
        ("a.png,crane,1,1,5,5", 0, "several classes are called 'crane': 2, 3"),
        ("a.png,dog,1,1,5", 0, "boxes.csv:2: 5 columns where the header has 6"),
        ("b.png,dog,1,1,5,5", 0, "boxes.csv:2: the image 'b.png' is missing; left out"),
        ("../a.png,dog,1,1,5,5", 0, "'../a.png' is not a name below the data set's folder"),
        ("..\\a.png,dog,1,1,5,5", 0, "is not a name below the data set's folder"),
        ("/etc/passwd,dog,1,1,5,5", 0, "'/etc/passwd' is not a name below"),
        ("C:a.png,dog,1,1,5,5", 0, "'C:a.png' is not a name below"),
        ("a\0.png,dog,1,1,5,5", 0, "is not a name below"),
        (f"{'a' * 5000},dog,1,1,5,5", 0, "is missing"),
    ],
)
def test_what_is_wrong_in_a_row_is_listed_with_its_line(
    tmp_path: Path, row: str, boxes: int, words: str
) -> None:
    found = table(tmp_path, f"file,label,x0,y0,x1,y1\n{row}\na.png,cat,0,0,20,10\n")
    assert words in problems(found)[0]
    assert len(found.problems) == 1
    assert [sample.name for sample in found.samples] == ["a.png"]
    assert len(found.samples[0].boxes) == boxes + 1
    assert found.samples[0].boxes[-1] == Box(0, 0, 0, 20, 10)


def test_a_box_partly_outside_is_clipped(tmp_path: Path) -> None:
    found = table(tmp_path, "file,x0,y0,x1,y1\na.png,-3,1,5,12\na.png,-0.01,0,20.01,10\n")
    assert found.samples[0].boxes == (Box(None, 0, 1, 5, 10), Box(None, 0, 0, 20, 10))
    assert len(found.problems) == 1  # a hundredth of a pixel is a rounding


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "boxes.csv:1: the header has no column file"),
        ("name,x0,y0,x1,y1\n", "boxes.csv:1: the header has no column file, image, filename or path"),
        ("file,x0,y0,x1\n", "boxes.csv:1: a box needs columns"),
        ("file,file\n", "boxes.csv:1: the header has a column twice"),
        ("file," + "x" * 70000, "boxes.csv:1: the first line is longer"),
    ],
)
def test_a_header_that_is_wrong_leaves_the_images(tmp_path: Path, text: str, words: str) -> None:
    found = table(tmp_path, text)
    assert words in problems(found)[0]
    assert [(sample.name, sample.boxes) for sample in found.samples] == [("a.png", ())]


def test_per_image_of_several_classes_has_none_itself(tmp_path: Path) -> None:
    found = table(tmp_path, "file,label\na.png,cat\na.png,dog\n")
    assert found.samples[0].label is None
    assert not found.problems


def test_images_without_a_row_are_samples(tmp_path: Path) -> None:
    image(tmp_path / "b.png")
    found = table(tmp_path, "file,label,x0,y0,x1,y1\na.png,cat,,,,\n")
    assert [(sample.name, sample.label, sample.boxes) for sample in found.samples] == [
        ("a.png", 0, ()),
        ("b.png", None, ()),
    ]
    assert problems(found) == ["b.png: no row in boxes.csv"]


def test_masks_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    Image.new("L", (WIDTH, HEIGHT), 255).save(tmp_path / "m" / "a.png")
    Image.new("L", (3, 3), 255).save(tmp_path / "m" / "b.png")
    text = "file,label,mask\na.png,dog,m/a.png\na.png,dog,m/b.png\na.png,dog,m/c.png\n"
    found = table(tmp_path, text)
    assert [sample.name for sample in found.samples] == ["a.png"]
    (mask,) = found.samples[0].masks
    assert mask.label == 1
    assert mask.pixels((HEIGHT, WIDTH)).all()
    assert problems(found) == [
        "m/b.png: the mask is 3×3, its image 20×10; the mask is left out",
        "boxes.csv:4: the mask 'm/c.png' is missing; left out",
    ]


def test_lines_that_are_not_utf8_or_too_long(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    raw = b"file,label\na.png,\xff\na.png," + b"x" * 200_000 + b"\na.png,dog\n"
    (tmp_path / "boxes.csv").write_bytes(raw)
    found = read(tmp_path)
    assert found.samples[0].label == 1
    assert problems(found) == [
        "boxes.csv:2: not UTF-8; the row is left out",
        "boxes.csv:3: the row cannot be read: field larger than field limit (131072)",
    ]


def test_shares_in_place_of_pixels_are_suspected(tmp_path: Path) -> None:
    found = table(tmp_path, "file,x0,y0,x1,y1\na.png,0.1,0.1,0.5,0.9\n")
    assert "in pixels, not in shares" in found.notes[0]


# ---- round trips ----


@st.composite
def boxes_of_images(draw: st.DrawFn, whole: bool) -> dict[str, list[Box]]:
    def edge(low: float, high: float) -> float:
        if whole:
            return draw(st.integers(int(low), int(high)))
        return draw(st.floats(low, high, exclude_min=low > 0, allow_subnormal=False))

    names = draw(st.lists(st.sampled_from("abcdef"), min_size=1, unique=True))
    found = {}
    for name in names:
        boxes = []
        for _ in range(draw(st.integers(0, 3))):
            x0, y0 = edge(0, WIDTH - 1), edge(0, HEIGHT - 1)
            x1 = draw(st.integers(int(x0) + 1, WIDTH))
            boxes.append(Box(draw(st.integers(0, 3)), x0, y0, x1, draw(st.integers(int(y0) + 1, HEIGHT))))
        found[name] = boxes
    return found


def assert_read(found: Dataset, written: dict[str, list[Box]], folder: str = "") -> None:
    assert not found.problems
    assert {sample.name: list(sample.boxes) for sample in found.samples} == {
        f"{folder}{name}.png": boxes for name, boxes in written.items()
    }


@settings(max_examples=25, deadline=None)
@given(written=boxes_of_images(whole=False))
def test_csv_round_trip(tmp_path_factory: pytest.TempPathFactory, written: dict[str, list[Box]]) -> None:
    root = tmp_path_factory.mktemp("csv")
    with (root / "boxes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "x0", "y0", "x1", "y1"])
        for name, boxes in written.items():
            image(root / f"{name}.png")
            if not boxes:
                writer.writerow([f"{name}.png", "", "", "", "", ""])
            for box in boxes:
                row = [LABELS[box.label or 0], box.x0, box.y0, box.x1, box.y1]
                writer.writerow([f"{name}.png", *row])
    assert_read(read(root), written)


def voc(boxes: list[Box], size: tuple[int, int] = (WIDTH, HEIGHT), more: str = "") -> str:
    objects = "\n".join(
        f"<object><name>{escape(LABELS[box.label or 0])}</name><bndbox><xmin>{int(box.x0) + 1}</xmin>"
        f"<ymin>{int(box.y0) + 1}</ymin><xmax>{box.x1}</xmax><ymax>{box.y1}</ymax></bndbox></object>"
        for box in boxes
    )
    sides = f"<width>{size[0]}</width><height>{size[1]}</height>"
    return f"<annotation><size>{sides}</size>\n{objects}\n{more}\n</annotation>"


@settings(max_examples=25, deadline=None)
@given(written=boxes_of_images(whole=True))
def test_voc_round_trip(tmp_path_factory: pytest.TempPathFactory, written: dict[str, list[Box]]) -> None:
    root = tmp_path_factory.mktemp("voc")
    (root / "Annotations").mkdir()
    for name, boxes in written.items():
        image(root / "JPEGImages" / f"{name}.png")
        (root / "Annotations" / f"{name}.xml").write_text(voc(boxes))
    assert_read(read(root), written, "JPEGImages/")


@settings(max_examples=25, deadline=None)
@given(written=boxes_of_images(whole=True))
def test_wsol_round_trip(tmp_path_factory: pytest.TempPathFactory, written: dict[str, list[Box]]) -> None:
    root = tmp_path_factory.mktemp("wsol")
    label = {name: boxes[0].label if boxes else 0 for name, boxes in written.items()}
    lines = []
    for name, boxes in written.items():
        image(root / f"{name}.png")
        lines += [f"{name}.png,{box.x0},{box.y0},{box.x1},{box.y1}" for box in boxes]
    (root / "image_ids.txt").write_text("\n".join(f"{name}.png" for name in written))
    (root / "class_labels.txt").write_text("\n".join(f"{name}.png,{label[name]}" for name in written))
    (root / "image_sizes.txt").write_text("\n".join(f"{name}.png,{WIDTH},{HEIGHT}" for name in written))
    (root / "localization.txt").write_text("\n".join(lines))
    found = read(root)
    assert found.inclusive_boxes
    assert problems(found) == [
        f"localization.txt: '{name}.png' has no box and no mask"
        for name in sorted(written)
        if not written[name]
    ]
    for sample, name in zip(found.samples, sorted(written), strict=True):
        assert sample.label == label[name]
        assert list(sample.boxes) == [Box(label[name], b.x0, b.y0, b.x1, b.y1) for b in written[name]]


# ---- PASCAL VOC ----


def one_xml(root: Path, text: str, **options: object) -> Dataset:
    image(root / "JPEGImages" / "a.png")
    (root / "Annotations").mkdir()
    (root / "Annotations" / "a.xml").write_text(text)
    return read(root, **options)


def test_pixels_are_counted_from_one_with_both_ends_inside(tmp_path: Path) -> None:
    found = one_xml(
        tmp_path,
        "<annotation><object><name>dog</name><bndbox><ymax>10</ymax><xmin>1</xmin><ymin>3</ymin>"
        "<xmax>1</xmax></bndbox><part><name>head</name><bndbox><xmin>5</xmin></bndbox></part></object>"
        "</annotation>",
    )
    assert found.samples[0].boxes == (Box(1, 0, 2, 1, 10),)
    assert found.samples[0].label == 1
    assert not found.problems


DIFFICULT = (
    "<object><name>cat</name><difficult>1</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax>"
    "<ymax>2</ymax></bndbox></object>"
)


@pytest.mark.parametrize("difficult", [False, True])
def test_difficult_objects_are_left_out_and_counted(tmp_path: Path, difficult: bool) -> None:
    found = one_xml(tmp_path, voc([Box(1, 0, 0, 5, 5)], more=DIFFICULT), difficult=difficult)
    assert len(found.samples[0].boxes) == 1 + difficult
    assert found.notes == (() if difficult else ("1 objects marked as difficult were left out",))
    assert not found.problems


@pytest.mark.parametrize(
    ("text", "boxes", "words"),
    [
        ("<annotation>\n<object>", 0, "Annotations/a.xml:2: not well-formed XML: no element found"),
        ("", 0, "a.xml:1: not well-formed XML: no element found"),
        ("<other/>", 0, "the outermost element is 'other'"),
        ('<?xml version="1.0" encoding="klingon"?><a/>', 0, "a.xml:1: not readable XML: unknown encoding"),
        (
            '<?xml version="1.0"?>\n<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>',
            0,
            "Annotations/a.xml:2: a document type",
        ),
        ("<a>" * 100 + "</a>" * 100, 0, "nested more than 32 deep"),
        (voc([Box(1, 0, 0, 5, 5)], (10, 20)), 0, "a.xml:1: the annotations are of 10×20 pixels"),
        (voc([Box(1, 0, 0, 5, 5)]).replace("<width>20<", "<width>x<"), 0, "must be numbers"),
        (voc([Box(1, 0, 0, 5, 5)], more="<object/>"), 1, "a.xml:3: an object without a name"),
        (voc([], more="<object><name>dog</name></object>"), 0, "a.xml:3: an object without bndbox"),
        (voc([], more="<object><difficult>2</difficult></object>"), 0, "difficult must be 0 or 1, not '2'"),
        (voc([Box(1, 0, 0, 5, 5)]).replace("dog", "wolf"), 0, "a.xml:2: no class is called 'wolf'"),
        (voc([Box(1, 0, 0, 5, 5)]).replace(">1</xmin", "></xmin"), 0, "must be finite numbers"),
        (voc([Box(1, 0, 0, 5, 5)]).replace("ymax", "zmax"), 0, "must be finite numbers"),
        (voc([Box(1, 0, 0, 5, 5)]).replace(">1</xmin", ">0</xmin"), 1, "reaches outside"),
        (voc([Box(1, 0, 0, 5, 5)]).replace(">1</xmin", ">1e999</xmin"), 0, "must be finite numbers"),
    ],
)
def test_what_is_wrong_in_xml_is_listed_with_its_line(
    tmp_path: Path, text: str, boxes: int, words: str
) -> None:
    found = one_xml(tmp_path, text)
    assert words in problems(found)[0]
    assert len(found.problems) == 1
    assert [len(sample.boxes) for sample in found.samples] == [boxes]


def test_a_size_of_nothing_means_that_none_is_stated(tmp_path: Path) -> None:
    assert not one_xml(tmp_path, voc([Box(1, 0, 0, 5, 5)], (0, 0))).problems


def test_images_and_xml_that_do_not_match(tmp_path: Path) -> None:
    folder = tmp_path / "Annotations"
    folder.mkdir()
    for name in ("a.png", "b.png", "b.bmp", "c.png"):
        image(tmp_path / "JPEGImages" / name)
    (folder / "b.xml").write_text(voc([], more="<filename>b.png</filename>"))
    (folder / "x.xml").write_text(voc([Box(1, 0, 0, 5, 5)], more="<filename>a.png</filename>"))
    (folder / "y.xml").write_text(voc([], more="<filename>a.png</filename>"))
    (folder / "z.xml").write_text(voc([], more="<filename>../../a.png</filename>"))
    (folder / "zz.xml").write_text(voc([]))
    found = read(tmp_path)
    assert [len(sample.boxes) for sample in found.samples] == [1, 0, 0, 0]
    assert problems(found) == [
        "Annotations/y.xml: JPEGImages/a.png has another annotation; this one is left out",
        "Annotations/z.xml:3: the image '../../a.png' is not a name below the data set's folder; left out",
        "Annotations/zz.xml: there is no image of this name, and the file names none",
        "JPEGImages/b.bmp: no annotation",
        "JPEGImages/c.png: no annotation",
    ]


# ---- the WSOL benchmark ----


def wsol(root: Path, **files: str) -> Dataset:
    given = {
        "image_ids": "a.png\n",
        "class_labels": "a.png,1\n",
        "image_sizes": "a.png,20,10\n",
        "localization": "a.png,0,0,5,5\n",
        **files,
    }
    image(root / "a.png")
    (root / "metadata").mkdir()
    for name, text in given.items():
        if text:
            (root / "metadata" / f"{name}.txt").write_text(text)
    return read(root)


def test_numbers_stay_as_they_stand(tmp_path: Path) -> None:
    found = wsol(tmp_path, localization="a.png,19,9,19,9\na.png,1,1,20,10\n")
    assert found.samples[0].boxes == (Box(1, 19, 9, 19, 9), Box(1, 1, 1, 20, 10))
    assert not found.problems


def test_boxes_that_reach_outside_end_with_the_last_pixel(tmp_path: Path) -> None:
    found = wsol(tmp_path, localization="a.png,-2,3,25,9\na.png,0,0,19,99\n")
    assert found.samples[0].boxes == (Box(1, 0, 3, 19, 9), Box(1, 0, 0, 19, 9))
    assert len(found.problems) == 2


@pytest.mark.parametrize(
    ("files", "boxes", "words"),
    [
        ({"localization": "a.png,0,0,5\n"}, 0, "localization.txt:1: 4 fields, not 3 or 5"),
        (
            {"localization": "a.png,0,0,5,5\nb.png,0,0,5,5\n"},
            1,
            "localization.txt:2: 'b.png' is not in image_ids",
        ),
        ({"localization": "a.png,0,0,5,5\na.png,0,0,5.5,5\n"}, 1, "localization.txt:2: a box's edges must"),
        ({"localization": "a.png,5,0,0,5\na.png,0,0,5,5"}, 1, "is inverted"),
        ({"localization": "a.png,0,0,25,5\n"}, 1, "(0, 0, 25, 5) reaches outside"),
        ({"localization": "a.png,20,0,25,5\na.png,0,0,5,5"}, 1, "is outside"),
        ({"localization": "a.png,,\na.png,0,0,5,5"}, 1, "neither a mask nor an ignore mask"),
        ({"localization": "a.png,m.png,\na.png,0,0,5,5"}, 1, "the mask 'm.png' is missing"),
        ({"image_sizes": "a.png,40,10\n"}, 0, "image_sizes.txt:1: the annotations are of 40×10 pixels"),
        ({"image_sizes": "a.png,10,20\n"}, 0, "20×10, the same turned"),
        ({"image_sizes": "a.png,x,20\n"}, 0, "must be numbers"),
        ({"image_sizes": "a.png,20,10\na.png,20,10"}, 1, "image_sizes.txt:2: 'a.png' was there before"),
        ({"class_labels": "a.png,4\n"}, 1, "class_labels.txt:1: there is no class '4'"),
        ({"class_labels": "a.png,1\na.png,2\n"}, 1, "class_labels.txt:2: 'a.png' was there before"),
        ({"class_labels": "a.png\n"}, 1, "class_labels.txt:1: 1 fields, not 2"),
        ({"class_labels": ""}, 1, "metadata: there is no class_labels.txt"),
        ({"image_ids": "a.png\n\na.png\n"}, 1, "image_ids.txt:3: 'a.png' was there before"),
        ({"image_ids": "a.png\nb.png\n"}, 1, "image_ids.txt:2: the image 'b.png' is missing"),
        ({"image_ids": "a.png\n../b.png\n"}, 1, "'../b.png' is not a name below"),
        ({"image_ids": "a.png\n./a.png\n"}, 1, "has no class"),
    ],
)
def test_what_is_wrong_in_metadata_is_listed_with_its_line(
    tmp_path: Path, files: dict[str, str], boxes: int, words: str
) -> None:
    found = wsol(tmp_path, **files)
    assert words in problems(found)[0]
    assert [(sample.name, len(sample.boxes)) for sample in found.samples] == [("a.png", boxes)]


def test_without_localization_there_are_no_boxes(tmp_path: Path) -> None:
    found = wsol(tmp_path, localization="")
    assert found.samples[0].boxes == ()
    assert not found.problems
    assert "no localization.txt" in found.notes[0]


def test_masks_of_another_size_are_brought_to_the_image(tmp_path: Path) -> None:
    mask = Image.new("1", (10, 5))
    mask.putpixel((2, 1), 1)
    mask.save(tmp_path / "m.png")
    Image.new("L", (WIDTH, HEIGHT), 255).save(tmp_path / "i.png")
    found = wsol(tmp_path, localization="a.png,m.png,i.png\na.png,m.png,\na.png,,i.png\n")
    assert not found.problems
    assert found.notes == ("2 masks have another size than their images and are brought to it",)
    first, second, third = (mask.pixels((HEIGHT, WIDTH)) for mask in found.samples[0].masks)
    assert (second[2:4, 4:6] == 1).all()
    assert second.sum() == 4
    assert (first == 255).sum() == WIDTH * HEIGHT - 4
    assert (first[2:4, 4:6] == 1).all()
    assert (third == 255).all()


def test_an_unsound_ignore_mask_takes_its_mask_along(tmp_path: Path) -> None:
    Image.new("1", (10, 5), 1).save(tmp_path / "m.png")
    (tmp_path / "i.png").write_bytes((tmp_path / "m.png").read_bytes()[:45])
    found = wsol(tmp_path, localization="a.png,m.png,i.png\n")
    assert found.samples[0].masks == ()
    assert "i.png: truncated or damaged" in problems(found)[0]


@settings(max_examples=40, deadline=None)
@given(raw=st.binary(max_size=200), kind=st.sampled_from(["csv", "voc", "wsol", "coco"]))
def test_any_bytes_give_problems_and_keep_the_image(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, kind: str
) -> None:
    root = tmp_path_factory.mktemp("bytes")
    image(root / "a.png")
    (root / "image_ids.txt").write_text("a.png\n")
    names = {"csv": "a.csv", "voc": "a.xml", "wsol": "localization.txt", "coco": "annotations.json"}
    starts = {"csv": b"file,label,x0,y0,x1,y1\n", "voc": b"", "wsol": b"", "coco": b""}
    (root / names[kind]).write_bytes(starts[kind] + raw)
    given = root / names[kind] if kind in ("csv", "coco") else root
    found = read(root, kind=kind, annotations=given)
    assert [sample.name for sample in found.samples] == ["a.png"]
    assert found.problems
