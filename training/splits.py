"""Which images there are, and of what class: folders of classes, and the lists of the WSOL benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camrt.engine.digests import combined_digest, file_digest
from camrt.engine.images.read import list_class_folders, list_images
from camrt.errors import DataError
from camrt.export.io.text_files import read_text_file

__all__ = ["Split", "hold_out", "read_class_folders", "read_wsol_split", "split_folder", "summarise_splits"]

TRAIN_NAMES = ("train", "training")
VALIDATION_NAMES = ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Images and their classes.

    Attributes:
        files: Where each image lies.
        classes: Its class, int64 (N,).
        labels: Name of each class.
    """

    files: tuple[Path, ...]
    classes: NDArray[np.int64]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> Split:
        """Some of the images."""
        return Split(
            tuple(self.files[i] for i in indices), self.classes[np.asarray(indices, np.int64)], self.labels
        )


def read_class_folders(folder: Path, labels: Sequence[str] | None = None) -> Split:
    """Images in a folder for each class, as for torchvision's ImageFolder, in the order of the names.

    Args:
        folder: Holds a folder for each class, each with images at any depth.
        labels: The classes that must be there, in order; None takes the folders' names.

    Raises:
        DataError: No such folder, no class folders, a class without images, or other classes than `labels`.
        ImageError: A folder cannot be listed.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder")
    names = list_class_folders(folder)
    if not names:
        raise DataError(f"{folder} holds no folders: each class needs one, with its images")
    if labels is not None and tuple(names) != tuple(labels):
        raise DataError(f"{folder} holds other classes: {describe_difference(names, labels)}")
    files: list[Path] = []
    classes: list[int] = []
    for index, name in enumerate(names):
        found = list_images(folder / name)
        if not found:
            raise DataError(
                f"{folder / name} holds no images: put some there, or remove the folder of that class"
            )
        files += found
        classes += [index] * len(found)
    return Split(tuple(files), np.array(classes, np.int64), tuple(names))


def split_folder(folder: Path, share: float, seed: int) -> tuple[Split, Split]:
    """Images to train on and images to validate on.

    Args:
        folder: Holds `train` and `val` (or `valid`, `validation`, `test`) with class folders each; or class
            folders themselves, of each of which a share is held out.
        share: That share.
        seed: Which images are held out.

    Raises:
        DataError: As `read_class_folders`; or `train` is there and no folder to validate on.
    """
    train = next((folder / name for name in TRAIN_NAMES if (folder / name).is_dir()), None)
    if train is None:
        return hold_out(read_class_folders(folder), share, seed)
    validation = next((folder / name for name in VALIDATION_NAMES if (folder / name).is_dir()), None)
    if validation is None:
        raise DataError(f"{folder} holds {train.name} and no folder to validate on: add {folder / 'val'}")
    images = read_class_folders(train)
    return images, read_class_folders(validation, images.labels)


def hold_out(images: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Holds out a share of each class, at least one image and never all.

    Raises:
        DataError: A class has a single image.
    """
    rng = np.random.default_rng(seed)
    held: list[int] = []
    for index, name in enumerate(images.labels):
        members = np.flatnonzero(images.classes == index)
        if len(members) < 2:
            raise DataError(
                f"class {name!r} has one image: two are needed, one to train and one to validate on"
            )
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held += rng.permutation(members)[:count].tolist()
    kept = np.setdiff1d(np.arange(len(images)), held)
    return images.subset(kept), images.subset(np.sort(np.array(held, np.int64)))


def read_wsol_split(lists: Path, images: Path, split: str, labels: Sequence[str] | None = None) -> Split:
    """A split of the weakly-supervised object localisation benchmark, by its metadata files.

    Args:
        lists: The data set's metadata, such as `metadata/CUB`: for each split a folder with `image_ids.txt`
            (an image a line) and `class_labels.txt` (`image,class`).
        images: The folder that the images' names start from, such as `dataset/CUB`.
        split: "train", "val" or "test".
        labels: Class names; None takes those that the training list's folders have, or the classes' numbers.

    Raises:
        DataError: A list is missing, names an image without a class, has a line that cannot be read, or
            skips a class; or an image is not there.
    """
    ids = _read_lines(lists / split / "image_ids.txt")
    numbered = _read_class_numbers(lists / split / "class_labels.txt")
    if missing := next((name for name in ids if name not in numbered), None):
        raise DataError(f"{lists / split / 'class_labels.txt'} gives no class for {missing!r}")
    if not ids:
        raise DataError(f"{lists / split / 'image_ids.txt'} is empty")
    files = tuple(images / name for name in ids)
    if absent := next((path for path in files if not path.is_file()), None):
        raise DataError(f"{absent}, named by {lists / split / 'image_ids.txt'}, is not there")
    classes = np.array([numbered[name] for name in ids], np.int64)
    if labels is None:
        labels = _class_names(_read_class_numbers(lists / "train" / "class_labels.txt"))
    if classes.min() < 0 or classes.max() >= len(labels):
        raise DataError(
            f"{lists / split / 'class_labels.txt'} has classes {classes.min()} to {classes.max()}; there are "
            f"{len(labels)}"
        )
    return Split(files, classes, tuple(labels))


def summarise_splits(data: tuple[Split, Split]) -> dict[str, Any]:
    """What images to train and to validate on are: classes, numbers, a hash of their order and contents."""
    files = [path for split in data for path in split.files]
    with ThreadPoolExecutor() as readers:
        contents = list(readers.map(file_digest, files))
    classes = [index for split in data for index in split.classes.tolist()]
    names = [f"{path.parent.name}/{path.name}" for path in files]
    return {
        "labels": list(data[0].labels),
        "images": [len(split) for split in data],
        "names": combined_digest(part for pair in zip(names, classes, strict=True) for part in pair),
        "contents": combined_digest(contents),
    }


def describe_difference(found: Sequence[str], wanted: Sequence[str]) -> str:
    """How two lists of classes differ, in a few words."""
    missing, extra = (
        [name for name in wanted if name not in found],
        [name for name in found if name not in wanted],
    )
    parts = [f"{word} {', '.join(map(repr, names[:5]))}{' …' * (len(names) > 5)}"
             for word, names in (("missing", missing), ("not expected", extra)) if names]  # fmt: skip
    return "; ".join(parts) or "the same names in another order"


def _read_lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in read_text_file(path).splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _read_class_numbers(path: Path) -> dict[str, int]:
    """Image -> class, of a `class_labels.txt`."""
    numbered = {}
    for number, line in enumerate(_read_lines(path), start=1):
        name, comma, value = line.rpartition(",")
        if not comma or not value.isdecimal():
            raise DataError(f"{path}, line {number}: {line!r} is not 'image,class'")
        numbered[name] = int(value)
    return numbered


def _class_names(numbered: dict[str, int]) -> tuple[str, ...]:
    """A name for each class: its images' folder where each class has one of its own, else its number."""
    folders: dict[int, set[str]] = {}
    for name, index in numbered.items():
        folders.setdefault(index, set()).add(Path(name).parent.name)
    count = max(folders) + 1
    single = [next(iter(folders[i])) if len(folders.get(i, ())) == 1 else "" for i in range(count)]
    return tuple(single) if all(single) and len(set(single)) == count else tuple(str(i) for i in range(count))
