"""STACK-MIX: which rows come from which image, and what is written of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from camrt.cli.main import app
from camrt.errors import DataError, InputError
from camrt.evaluation.datasets import read_dataset
from camrt.evaluation.dead_zone import stack_mix as module
from camrt.evaluation.dead_zone.stack_mix import MANIFEST, stack_mix, write_stack_mix
from helpers.labelled_images import CLASSES, coloured_squares


def constant(value: int, height: int = 224, width: int = 224) -> Any:
    return np.full((height, width, 3), value, np.uint8)


def test_the_vector() -> None:
    """Specification D13: of constant images 1 and 2, row 169 is 1 and row 170 is 2."""
    mixed = stack_mix(constant(1), constant(2))
    assert mixed.shape == (224, 224, 3)
    assert mixed.dtype == np.uint8
    assert (mixed[169] == 1).all()
    assert (mixed[170] == 2).all()
    assert ((mixed == 2).any(axis=(1, 2))).sum() == 54


@settings(max_examples=50, deadline=None)
@given(height=st.integers(2, 12), width=st.integers(1, 5), data=st.data())
def test_every_pixel_comes_from_its_own_place(height: int, width: int, data: Any) -> None:
    dead = data.draw(st.integers(1, height - 1))
    top = np.arange(height * width * 3).reshape(height, width, 3)
    mixed = stack_mix(top, -1 - top, dead)
    for row in range(height):
        np.testing.assert_array_equal(mixed[row], top[row] if row < height - dead else -1 - top[row])
    np.testing.assert_array_equal(stack_mix(top, top, dead), top)
    mixed[:] = 0
    assert top.any()


@pytest.mark.parametrize(
    ("top", "bottom", "dead", "words"),
    [
        (constant(1), constant(2, 223), 54, "of one size and type"),
        (constant(1), constant(2).astype(np.float32), 54, "of one size and type"),
        (constant(1)[..., 0], constant(2)[..., 0], 54, r"must be \(H, W, 3\)"),
        (constant(1).transpose(2, 0, 1), constant(1).transpose(2, 0, 1), 1, r"must be \(H, W, 3\)"),
        (constant(1), constant(2), 0, "at least 1 and fewer than the 224"),
        (constant(1), constant(2), 224, "at least 1 and fewer than the 224"),
    ],
)
def test_images_that_cannot_be_stacked_are_refused(top: Any, bottom: Any, dead: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        stack_mix(top, bottom, dead)


def pixels_of(path: Path) -> Any:
    return np.asarray(Image.open(path))


def test_a_set_is_what_its_manifest_says(tmp_path: Path) -> None:
    folder = coloured_squares(tmp_path / "images", each=5)
    built = write_stack_mix(folder, tmp_path / "out", dead_rows=11, size=40, seed=3)
    assert built.labels == CLASSES
    assert built.left_out == built.unreadable == ()
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert {key: manifest[key] for key in ("seed", "size", "dead_rows", "left_out", "unreadable")} == {
        "seed": 3,
        "size": 40,
        "dead_rows": 11,
        "left_out": [],
        "unreadable": [],
    }
    assert [note["class"] for note in manifest["images"]] == list(CLASSES)
    for path, note in zip(built.files, manifest["images"], strict=True):
        assert path == tmp_path / "out" / note["file"]
        assert note["top"] != note["bottom"]
        assert note["top"].split("/")[0] == note["bottom"].split("/")[0] == note["class"]
        top, bottom = pixels_of(folder / note["top"]), pixels_of(folder / note["bottom"])
        np.testing.assert_array_equal(pixels_of(path), np.concatenate([top[:29], bottom[29:]]))


def test_a_set_follows_from_its_seed_and_a_class_from_its_own_files(tmp_path: Path) -> None:
    folder = coloured_squares(tmp_path / "images", each=9)

    def built(name: str, **options: Any) -> dict[str, tuple[str, str]]:
        write_stack_mix(folder, tmp_path / name, dead_rows=9, size=40, **options)
        notes = json.loads((tmp_path / name / MANIFEST).read_text())["images"]
        return {note["class"]: (note["top"], note["bottom"]) for note in notes}

    first = built("first", seed=1)
    assert built("again", seed=1) == first
    assert built("other", seed=2) != first
    assert built("named", seed=1, classes=["red"]) == {"red": first["red"]}
    two = built("two", seed=1, classes=2)
    assert len(two) == 2
    assert two.items() < first.items()


def test_a_hundred_classes_are_drawn_or_all_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module.CLASSES == 100
    folder = coloured_squares(tmp_path / "images", each=2)
    monkeypatch.setattr(module, "CLASSES", 2)
    assert len(write_stack_mix(folder, tmp_path / "out", dead_rows=5, size=24).files) == 2


def test_images_are_cut_to_their_centre(tmp_path: Path) -> None:
    for value in (10, 200):
        wide = np.zeros((20, 60, 3), np.uint8)
        wide[:, 20:40] = value
        (tmp_path / "images" / "one").mkdir(parents=True, exist_ok=True)
        Image.fromarray(wide).save(tmp_path / "images" / "one" / f"{value}.png")
    built = write_stack_mix(tmp_path / "images", tmp_path / "out", dead_rows=5, size=20)
    mixed = pixels_of(built.files[0])
    assert sorted([int(mixed[0, 10, 0]), int(mixed[-1, 10, 0])]) == [10, 200]
    assert mixed.all()


def test_classes_without_two_images_are_listed(tmp_path: Path) -> None:
    """One with a single image, one whose second cannot be read, one whose second is a copy, one empty."""
    folder = coloured_squares(tmp_path / "images", each=3)
    for name, second in (("single", b""), ("broken", b"no image"), ("twice", None)):
        (folder / name).mkdir()
        Image.fromarray(constant(7, 30, 30)).save(folder / name / "a.png")
        if second is None:
            (folder / name / "b.png").write_bytes((folder / name / "a.png").read_bytes())
        elif second:
            (folder / name / "b.png").write_bytes(second)
    (folder / "empty").mkdir()
    (folder / ".hidden").mkdir()
    built = write_stack_mix(folder, tmp_path / "out", dead_rows=9, size=24)
    assert built.labels == CLASSES
    assert built.left_out == ("broken", "empty", "single", "twice")
    assert built.unreadable == (folder / "broken" / "b.png",)
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert manifest["left_out"] == list(built.left_out)
    assert manifest["unreadable"] == ["broken/b.png"]
    assert len(write_stack_mix(folder, tmp_path / "three", dead_rows=9, size=24, classes=3).files) == 3
    with pytest.raises(DataError, match=r"3 classes with two .* 4 are needed; too few in: .*twice"):
        write_stack_mix(folder, tmp_path / "four", dead_rows=9, size=24, classes=4)
    assert not (tmp_path / "four").exists()
    with pytest.raises(DataError, match=r"0 classes .* one is needed; too few in: single"):
        write_stack_mix(folder, tmp_path / "none", dead_rows=9, size=24, classes=["single"])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"dead_rows": 24}, InputError, "fewer than the 24"),
        ({"dead_rows": 0}, InputError, "at least 1"),
        ({"size": 0}, InputError, "size"),
        ({"classes": 0}, InputError, "at least 1"),
        ({"classes": "red"}, InputError, "a number, or names"),
        ({"classes": []}, InputError, "a number, or names"),
        ({"classes": ["red", "red"]}, InputError, "each once"),
        ({"classes": ["red", "mauve"]}, DataError, "no class 'mauve'"),
    ],
)
def test_wrong_settings_are_refused(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    folder = coloured_squares(tmp_path / "images", each=2)
    with pytest.raises(error, match=words):
        write_stack_mix(folder, tmp_path / "out", **{"dead_rows": 5, "size": 24, **change})


def test_folders_that_will_not_do_are_refused(tmp_path: Path) -> None:
    folder = coloured_squares(tmp_path / "images", each=2)
    with pytest.raises(DataError, match="is no folder"):
        write_stack_mix(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(DataError, match="holds no folders"):
        write_stack_mix(folder / "red", tmp_path / "out")
    with pytest.raises(DataError, match="not an empty folder"):
        write_stack_mix(folder, folder)


def test_classes_may_be_the_first_ones(tmp_path: Path) -> None:
    folder = coloured_squares(tmp_path / "images", each=2)
    built = [
        write_stack_mix(folder, tmp_path / f"{seed}", dead_rows=5, size=24, first=2, seed=seed)
        for seed in (0, 1)
    ]
    assert [set(one.labels) for one in built] == [{"blue", "green"}] * 2
    with pytest.raises(DataError, match="2 classes with two"):
        write_stack_mix(folder, tmp_path / "three", dead_rows=5, size=24, first=2, classes=3)
    with pytest.raises(InputError, match="classes that are named are not drawn"):
        write_stack_mix(folder, tmp_path / "named", dead_rows=5, size=24, first=2, classes=["red"])
    with pytest.raises(InputError, match="first=0 must be at least 1"):
        write_stack_mix(folder, tmp_path / "none", dead_rows=5, size=24, first=0)


# --- the command


def told(*words: object, code: int = 0) -> str:
    """What `camrt data stack-mix` prints, in one line."""
    found = CliRunner().invoke(app, ["data", "stack-mix", *map(str, words)])
    assert found.exit_code == code, found.output
    return " ".join(found.output.split())


SMALL = ("--size", 20, "--dead-rows", 6, "--seed", 3)


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_command_writes_images_and_a_table_that_can_be_evaluated(tmp_path: Path) -> None:
    """Boxes are the upper object's own, by halves as the images are, and end at the seam."""
    folder = coloured_squares(tmp_path / "images", each=5, boxed=True)
    said = told(folder, "--out", tmp_path / "set", *SMALL)
    assert "3 images of 20×20" in said
    assert "the lowest 6 rows are another image's of the class; 3 have boxes" in said
    files = {f"{name}/stack_mix.png" for name in CLASSES}
    journal = {"manifest.json", "images.csv", "run.json", "written.jsonl"}
    assert names_in(tmp_path / "set") == files | journal
    rows = (folder / "boxes.csv").read_text().splitlines()[1:]
    drawn = {row.split(",")[0]: [int(edge) for edge in row.split(",")[2:]] for row in rows}
    built = write_stack_mix(folder, tmp_path / "same", size=20, dead_rows=6, seed=3)
    notes = json.loads((tmp_path / "set" / MANIFEST).read_text())["images"]
    found = read_dataset(tmp_path / "set", labels=CLASSES, num_classes=3)
    assert found.problems == ()
    for sample, path, note in zip(found.samples, built.files, notes, strict=True):
        assert sample.path.read_bytes() == path.read_bytes()
        assert sample.label == CLASSES.index(note["class"])
        x0, y0, x1, y1 = drawn[note["top"]]
        # A pixel of the small image belongs to the box when its middle does: two of the large one's pixels.
        inside = [[x0 <= 2 * c + 1 < x1 and y0 <= 2 * r + 1 < y1 for c in range(20)] for r in range(14)]
        columns, lines = np.flatnonzero(np.any(inside, 0)), np.flatnonzero(np.any(inside, 1))
        (box,) = sample.boxes
        expected = (columns[0], lines[0], columns[-1] + 1, lines[-1] + 1)
        assert (box.x0, box.y0, box.x1, box.y1) == expected


def test_a_box_that_lies_below_the_seam_is_no_box(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for number in range(2):
        (folder / "one").mkdir(parents=True, exist_ok=True)
        Image.fromarray(constant(number, 20, 20)).save(folder / "one" / f"{number}.png")
    lines = ["file,label,x0,y0,x1,y1", "one/0.png,one,2,15,9,18", "one/1.png,one,2,15,9,18"]
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n")
    assert "0 have boxes" in told(folder, "--out", tmp_path / "set", *SMALL)
    assert read_dataset(tmp_path / "set", labels=["one"], num_classes=1).samples[0].boxes == ()
    assert "1 have boxes" in told(folder, "--out", tmp_path / "higher", "--size", 20, "--dead-rows", 4)
    row = (tmp_path / "higher" / "images.csv").read_text().splitlines()[1]
    assert row.split(",")[2:6] == ["2", "15", "9", "16"]


def test_what_is_there_is_left_alone_or_replaced(tmp_path: Path) -> None:
    folder = coloured_squares(tmp_path / "images", each=3)
    line = (folder, "--out", tmp_path / "set", *SMALL)
    assert "0 have boxes" in told(*line)
    before = names_in(tmp_path / "set")
    assert "not an empty folder: replace the set in it (--overwrite)" in told(*line, code=2)
    assert "2 images" in told(*line, "--classes", 2, "--overwrite")
    assert len(names_in(tmp_path / "set")) == len(before) - 1
    (tmp_path / "set" / "red").mkdir(exist_ok=True)
    (tmp_path / "set" / "red" / "mine.png").write_bytes(b"mine")
    kept = names_in(tmp_path / "set")
    assert "holds 'red/mine.png', which is no part of a set" in told(*line, "--overwrite", code=2)
    assert names_in(tmp_path / "set") == kept
    assert "holds no class 'nought'" in told(*line, "--overwrite", "--class", "nought", code=2)
    assert names_in(tmp_path / "set") == kept


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--classes", 2, "--class", "red"), "--classes draws classes and --class names them"),
        (("--class", "mauve"), "holds no class 'mauve'"),
        (("--dead-rows", 20), "fewer than the 20 rows"),
        (("--annotations", "nowhere.csv"), "nowhere.csv: no such file or folder"),
        (("--classes", 4), "4 are needed"),
    ],
)
def test_wrong_options_are_told(tmp_path: Path, options: tuple[object, ...], words: str) -> None:
    folder = coloured_squares(tmp_path / "images", each=2)
    assert words in told(folder, "--out", tmp_path / "set", *SMALL, *options, code=2)
    assert not (tmp_path / "set").exists()
