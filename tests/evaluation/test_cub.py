"""Reading CUB-200-2011's folder: what is in it, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camrt.errors import CamrtError, DataError, ImageError
from camrt.evaluation.datasets.cub import CubDataset
from helpers.oracles.cues import ATTRIBUTES, KEYPOINTS, small_cub


@pytest.mark.parametrize("beside", [False, True])
def test_everything_is_read(tmp_path: Path, beside: bool) -> None:
    held = small_cub(tmp_path / "cub", beside=beside)
    cub = CubDataset(tmp_path / "cub")
    assert cub.names == tuple(held["names"])
    assert cub.labels == held["labels"]
    assert cub.attribute_names == ATTRIBUTES
    assert cub.part_names == KEYPOINTS
    np.testing.assert_array_equal(cub.classes, np.repeat(np.arange(4), 3))
    np.testing.assert_array_equal(cub.is_train, np.tile([True, False, False], 4))
    np.testing.assert_array_equal(cub.class_attributes, held["shares"])
    for index, shown in enumerate(held["visible"]):
        for place, part in enumerate(KEYPOINTS):
            expected = shown.get(part, (np.nan, np.nan))
            np.testing.assert_array_equal(cub.keypoints[index, place], expected)
    assert [cub.size(index) for index in range(12)] == held["sizes"]
    np.testing.assert_array_equal(cub.test_images(2), [7, 8])
    assert cub.image(3) == tmp_path / "cub" / "images" / held["names"][3]


def test_any_level_above_zero_is_bird(tmp_path: Path) -> None:
    held = small_cub(tmp_path / "cub")
    path = (tmp_path / "cub" / "segmentations" / held["names"][0]).with_suffix(".png")
    side = 16
    found = CubDataset(tmp_path / "cub").segmentation(0, side)
    assert found.shape == (side, side)
    assert found.dtype == np.bool_
    assert found[side // 2, side // 2]
    assert not found[0].any()
    same = np.zeros((side, side), np.uint8)
    same[2:5, 3:9] = 1
    Image.fromarray(same).save(path)
    np.testing.assert_array_equal(CubDataset(tmp_path / "cub").segmentation(0, side), same > 0)


def test_only_what_is_asked_is_read(tmp_path: Path) -> None:
    small_cub(tmp_path)
    for name in ("parts/part_locs.txt", "train_test_split.txt", "classes.txt"):
        (tmp_path / name).unlink()
    cub = CubDataset(tmp_path)
    assert len(cub.names) == 12
    assert cub.part_names == KEYPOINTS
    for ask in ("keypoints", "is_train", "labels", "classes"):
        with pytest.raises(DataError, match="is missing"):
            getattr(cub, ask)


def test_fewer_images_than_the_other_files_tell_of(tmp_path: Path) -> None:
    held = small_cub(tmp_path)
    lines = (tmp_path / "images.txt").read_text().splitlines()
    (tmp_path / "images.txt").write_text("\n".join([lines[7], lines[2]]))
    cub = CubDataset(tmp_path)
    assert cub.names == (held["names"][7], held["names"][2])
    np.testing.assert_array_equal(cub.classes, [2, 0])
    np.testing.assert_array_equal(cub.is_train, [False, False])
    tail = KEYPOINTS.index("tail")
    expected = [held["visible"][n].get("tail", (np.nan, np.nan)) for n in (7, 2)]
    np.testing.assert_array_equal(cub.keypoints[:, tail], expected)


@pytest.mark.parametrize(
    ("file", "line", "text", "ask", "words"),
    [
        ("images.txt", 2, "two a.jpg", "names", "images.txt, line 2: expected a whole number, not 'two'"),
        ("images.txt", 2, "1 a.jpg", "names", "line 2: image 1 a second time"),
        ("images.txt", 3, "3 ../a.jpg", "names", "line 3: .* does not lie below images/"),
        ("images.txt", 3, "3", "names", "line 3: expected a number and what it stands for"),
        ("classes.txt", 2, "3 Crow", "labels", "classes.txt, line 2: number 3 where 2 was expected"),
        ("image_class_labels.txt", 5, "5 9", "classes", "line 5: 9 for image 5 is not in 1 to 4"),
        ("image_class_labels.txt", 5, "4 2", "classes", "line 5: .* there twice"),
        ("image_class_labels.txt", 5, "", "classes", "no line for image 5"),
        ("train_test_split.txt", 1, "1 2", "is_train", "2 for image 1 is not in 0 to 1"),
        ("parts/part_locs.txt", 4, "1 4 nan 2.0 1", "keypoints", "line 4: expected a finite number"),
        ("parts/part_locs.txt", 4, "1 4 3.0 2.0", "keypoints", "line 4: expected `image part x y visible`"),
        ("parts/part_locs.txt", 4, "1 16 3.0 2.0 1", "keypoints", "line 4: part 16 or visibility 1"),
        ("parts/part_locs.txt", 4, "1 3 3.0 2.0 1", "keypoints", "line 4: part 3 of image 1 a second time"),
        ("parts/part_locs.txt", 4, "", "keypoints", "no line for part 4 of image 1"),
        (
            "attributes/class_attribute_labels_continuous.txt",
            2,
            "1.0 2.0",
            "class_attributes",
            "line 2: 2 percentages for 5 attributes",
        ),
        (
            "attributes/class_attribute_labels_continuous.txt",
            2,
            "1.0 2.0 3.0 4.0 101",
            "class_attributes",
            "line 2: a percentage outside 0 to 100",
        ),
        (
            "attributes/class_attribute_labels_continuous.txt",
            2,
            "",
            "class_attributes",
            "3 lines for 4 classes",
        ),
    ],
)
def test_what_is_wrong_in_a_file(
    tmp_path: Path, file: str, line: int, text: str, ask: str, words: str
) -> None:
    small_cub(tmp_path)
    lines = (tmp_path / file).read_text().splitlines()
    lines[line - 1] = text
    (tmp_path / file).write_text("\n".join(lines))
    with pytest.raises(DataError, match=words):
        getattr(CubDataset(tmp_path), ask)


def test_files_that_are_missing_or_no_text(tmp_path: Path) -> None:
    held = small_cub(tmp_path / "cub")
    cub = CubDataset(tmp_path / "cub")
    (tmp_path / "cub" / "attributes" / "attributes.txt").unlink()
    with pytest.raises(DataError, match=r"neither .* nor .*attributes.txt is there"):
        _ = cub.attribute_names
    (tmp_path / "cub" / "classes.txt").write_bytes(b"1 \xff\xfe")
    with pytest.raises(DataError, match=r"classes.txt: cannot be read"):
        _ = cub.labels
    (tmp_path / "cub" / "classes.txt").write_text("\n")
    with pytest.raises(DataError, match=r"classes.txt is empty"):
        _ = cub.labels
    path = (tmp_path / "cub" / "segmentations" / held["names"][0]).with_suffix(".png")
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read"):
        cub.segmentation(0)
    path.unlink()
    with pytest.raises(DataError, match=r"segmentations\.tgz"):
        cub.segmentation(0)
    cub.image(0).unlink()
    with pytest.raises(ImageError, match=r"Auk_0\.jpg"):
        cub.size(0)
    (tmp_path / "cub" / "images.txt").write_text("")
    with pytest.raises(DataError, match="lists no images"):
        _ = CubDataset(tmp_path / "cub").names
    with pytest.raises(CamrtError, match=r"images.txt is missing"):
        _ = CubDataset(tmp_path / "elsewhere").names
