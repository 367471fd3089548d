"""Which images there are: class folders, shares held out, and the lists of the WSOL benchmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from camrt.errors import DataError
from camrt.training.splits import hold_out, read_class_folders, read_wsol_split, split_folder
from helpers.labelled_images import CLASSES, coloured_squares, wsol_benchmark
from helpers.peer_libraries import import_peer


def test_class_folders(tmp_path: Path) -> None:
    found = read_class_folders(coloured_squares(tmp_path / "data", each=3))
    assert found.labels == CLASSES
    assert [path.parent.name for path in found.files] == [name for name in CLASSES for _ in range(3)]
    np.testing.assert_array_equal(found.classes, np.repeat([0, 1, 2], 3))


@pytest.mark.peers
def test_the_same_as_torchvisions_image_folder(tmp_path: Path) -> None:
    import_peer("torchvision")
    from torchvision.datasets import ImageFolder

    folder = coloured_squares(tmp_path / "data", each=3)
    (folder / "Amber" / "deeper").mkdir(parents=True)
    (folder / "red" / "00.png").rename(folder / "Amber" / "deeper" / "z.PNG")
    (folder / "red" / "notes.txt").write_text("not an image")
    mine, theirs = read_class_folders(folder), ImageFolder(str(folder))
    assert list(mine.labels) == theirs.classes
    samples = list(zip(map(str, mine.files), mine.classes.tolist(), strict=True))
    assert samples == theirs.samples


def test_a_share_of_each_class_is_held_out(tmp_path: Path) -> None:
    found = read_class_folders(coloured_squares(tmp_path / "data", each=10))
    kept, held = hold_out(found, 0.2, seed=1)
    assert len(kept) == 24
    assert len(held) == 6
    assert set(kept.files) | set(held.files) == set(found.files)
    assert np.bincount(held.classes).tolist() == [2, 2, 2]
    for name, split in (("kept", kept), ("held", held)):
        assert all(
            path.parent.name == split.labels[c] for path, c in zip(split.files, split.classes, strict=True)
        ), name
    again = hold_out(found, 0.2, seed=1)[1]
    assert again.files == held.files
    assert hold_out(found, 0.2, seed=2)[1].files != held.files
    assert len(hold_out(found, 0.0, seed=1)[1]) == 3
    assert len(hold_out(found, 0.99, seed=1)[0]) == 3


def test_folders_for_training_and_validation(tmp_path: Path) -> None:
    coloured_squares(tmp_path / "train", each=4)
    with pytest.raises(DataError, match="no folder to validate on"):
        split_folder(tmp_path, 0.1, 0)
    coloured_squares(tmp_path / "val", each=2)
    train, held = split_folder(tmp_path, 0.1, 0)
    assert (len(train), len(held)) == (12, 6)
    (tmp_path / "val" / "red").rename(tmp_path / "val" / "rouge")
    with pytest.raises(DataError, match=r"other classes: missing 'red'; not expected 'rouge'"):
        split_folder(tmp_path, 0.1, 0)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder"):
        read_class_folders(tmp_path / "missing")
    with pytest.raises(DataError, match="holds no folders"):
        read_class_folders(tmp_path)
    folder = coloured_squares(tmp_path / "data", each=1)
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no images: put some there, or remove the folder"):
        read_class_folders(folder)
    (folder / "empty").rmdir()
    with pytest.raises(DataError, match=r"class 'blue' has one image"):
        hold_out(read_class_folders(folder), 0.5, 0)
    with pytest.raises(DataError, match="the same names in another order"):
        read_class_folders(folder, CLASSES[::-1])


def test_the_lists_of_the_wsol_benchmark(tmp_path: Path) -> None:
    lists, images = wsol_benchmark(tmp_path)
    train = read_wsol_split(lists, images, "train")
    assert train.labels == CLASSES
    assert len(train) == 6
    assert len(read_wsol_split(lists, images, "val", train.labels)) == 3
    assert read_wsol_split(lists, images, "test").classes.tolist() == [0, 1, 2]


def test_classes_without_folders_of_their_own_are_numbered(tmp_path: Path) -> None:
    """ImageNet's validation images lie in one folder."""
    lists, images = wsol_benchmark(tmp_path)
    for name in ("image_ids.txt", "class_labels.txt"):
        text = (lists / "train" / name).read_text()
        for old in CLASSES:
            text = text.replace(f"{old}/", f"all/{old}")
        (lists / "train" / name).write_text(text)
    (images / "all").mkdir()
    for old in CLASSES:
        for path in (images / old).iterdir():
            (images / "all" / f"{old}{path.name}").write_bytes(path.read_bytes())
    assert read_wsol_split(lists, images, "train").labels == ("0", "1", "2")


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("image_ids.txt", "blue/99.png\n", r"gives no class for 'blue/99.png'"),
        ("image_ids.txt", "\n", "is empty"),
        ("class_labels.txt", "blue/00.png;0\n", r"line 1: 'blue/00.png;0' is not 'image,class'"),
        ("class_labels.txt", "blue/00.png,-1\n", "is not 'image,class'"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, file: str, text: str, words: str) -> None:
    lists, images = wsol_benchmark(tmp_path)
    (lists / "train" / file).write_text(text)
    with pytest.raises(DataError, match=words):
        read_wsol_split(lists, images, "train")


def test_images_that_are_not_there(tmp_path: Path) -> None:
    lists, images = wsol_benchmark(tmp_path)
    (images / "red" / "01.png").unlink()
    with pytest.raises(DataError, match=r"red/01.png, named by .*image_ids.txt, is not there"):
        read_wsol_split(lists, images, "train")
    with pytest.raises(DataError, match=r"image_ids.txt cannot be read"):
        read_wsol_split(lists, images, "nonesuch")
    with pytest.raises(DataError, match="has classes 0 to 2; there are 2"):
        read_wsol_split(lists, images, "val", ("blue", "green"))
