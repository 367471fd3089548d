"""The folder of Caltech-UCSD Birds-200-2011 (Wah et al., 2011) as it is distributed.

    images.txt, image_class_labels.txt, train_test_split.txt, classes.txt
    attributes/attributes.txt            (or ../attributes.txt, where the archive unpacks it)
    attributes/class_attribute_labels_continuous.txt
    parts/parts.txt, parts/part_locs.txt
    images/CLASS/NAME.jpg
    segmentations/CLASS/NAME.png         (an archive of its own)

A file is read when something in it is first asked for, and no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camrt.errors import DataError, ImageError
from camrt.evaluation.datasets.annotation_checks import parse_number
from camrt.export.io.text_files import read_text_file

__all__ = ["CubDataset"]


@dataclass(frozen=True)
class CubDataset:
    """CUB-200-2011. Images are indexed from 0 in the order of `images.txt`, classes from 0.

    `images.txt` may list fewer images than the data set has; what other files say of the rest is passed
    over.

    Attributes:
        folder: The folder that holds `images.txt`.

    Raises:
        DataError: From every property and method: a file that is missing or is not as it should be; the
            message names the file and the line.
    """

    folder: Path

    @cached_property
    def names(self) -> tuple[str, ...]:
        """N images, as paths below `images/`."""
        return tuple(self._images.values())

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """C names of classes, as in "001.Black_footed_Albatross"."""
        return read_ordered_names(self.folder / "classes.txt")

    @cached_property
    def classes(self) -> NDArray[np.int64]:
        """Class of each image, from 0, (N,)."""
        found = self._of_images("image_class_labels.txt", range(1, len(self.labels) + 1))
        return np.array(found, np.int64) - 1

    @cached_property
    def is_train(self) -> NDArray[np.bool_]:
        """Whether each image is in the training split, (N,)."""
        return np.array(self._of_images("train_test_split.txt", range(2)), np.bool_)

    @cached_property
    def attribute_names(self) -> tuple[str, ...]:
        """A names, as in "has_bill_shape::dagger"."""
        inside, beside = self.folder / "attributes" / "attributes.txt", self.folder.parent / "attributes.txt"
        if not inside.is_file() and not beside.is_file():
            raise DataError(f"neither {inside} nor {beside} is there: it names the attributes")
        return read_ordered_names(inside if inside.is_file() else beside)

    @cached_property
    def class_attributes(self) -> NDArray[np.float64]:
        """Percentage of answers that gave a class an attribute, float64 (C, A), from 0 to 100."""
        path = self.folder / "attributes" / "class_attribute_labels_continuous.txt"
        rows = []
        for number, words in read_lines(path):
            row = [parse_float(word, path, number) for word in words]
            if len(row) != len(self.attribute_names):
                raise DataError(
                    f"{path}, line {number}: {len(row)} percentages for {len(self.attribute_names)} "
                    "attributes"
                )
            if not all(0 <= value <= 100 for value in row):
                raise DataError(f"{path}, line {number}: a percentage outside 0 to 100")
            rows.append(row)
        if len(rows) != len(self.labels):
            raise DataError(f"{path}: {len(rows)} lines for {len(self.labels)} classes")
        return np.array(rows, np.float64)

    @cached_property
    def part_names(self) -> tuple[str, ...]:
        """P names of keypoints, as in "left eye"."""
        return read_ordered_names(self.folder / "parts" / "parts.txt")

    @cached_property
    def keypoints(self) -> NDArray[np.float64]:
        """Where each image shows each part, float64 (N, P, 2): x and y in its own pixels, NaN if hidden."""
        path = self.folder / "parts" / "part_locs.txt"
        index = {key: place for place, key in enumerate(self._images)}
        points = np.full((len(index), len(self.part_names), 2), np.nan)
        seen = np.zeros(points.shape[:2], np.bool_)
        for number, words in read_lines(path):
            if len(words) != 5:
                raise DataError(
                    f"{path}, line {number}: expected `image part x y visible`, not {' '.join(words)!r}"
                )
            image, part, visible = (parse_int(words[place], path, number) for place in (0, 1, 4))
            if image not in index:
                continue
            if not 1 <= part <= len(self.part_names) or visible not in (0, 1):
                raise DataError(f"{path}, line {number}: part {part} or visibility {visible} out of range")
            place = index[image], part - 1
            if seen[place]:
                raise DataError(f"{path}, line {number}: part {part} of image {image} a second time")
            seen[place] = True
            point = [parse_float(word, path, number) for word in words[2:4]]
            if visible:
                points[place] = point
        if not seen.all():
            image, part = np.argwhere(~seen)[0]
            raise DataError(f"{path}: no line for part {part + 1} of image {list(index)[image]}")
        return points

    def test_images(self, label: int) -> NDArray[np.int64]:
        """Indices of the test split's images of a class."""
        return np.flatnonzero((self.classes == label) & ~self.is_train)

    def image(self, index: int) -> Path:
        """File of an image."""
        return self.folder / "images" / self.names[index]

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of an image, in pixels, of which only the file's beginning is read.

        Raises:
            ImageError: The file is missing or is not an image.
        """
        try:
            with Image.open(self.image(index)) as image:
                return image.height, image.width
        except OSError as error:
            raise ImageError(f"{self.image(index)}: cannot be read: {error}") from error

    def segmentation(self, index: int, side: int = 224) -> NDArray[np.bool_]:
        """The pixels of an image that are bird, of the image resized to a square.

        The file's grey levels count the people who marked a pixel; resized with Pillow's bicubic filter, any
        level above zero is bird.

        Args:
            index: The image.
            side: Height and width of the result.

        Returns:
            bool (side, side).
        """
        path = (self.folder / "segmentations" / self.names[index]).with_suffix(".png")
        if not path.is_file():
            raise DataError(
                f"{path} is missing: the birds' outlines are an archive of their own, segmentations.tgz, to "
                f"be unpacked in {self.folder}"
            )
        try:
            with Image.open(path) as image:
                grey = image.convert("L").resize((side, side), Image.Resampling.BICUBIC)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
        return np.asarray(grey) > 0

    @cached_property
    def _images(self) -> dict[int, str]:
        """The file's own number of each image, and its name."""
        path = self.folder / "images.txt"
        found: dict[int, str] = {}
        for number, key, name in read_numbered_lines(path):
            parts = PurePosixPath(name)
            if parts.is_absolute() or ".." in parts.parts:
                raise DataError(f"{path}, line {number}: {name!r} does not lie below images/")
            if key in found:
                raise DataError(f"{path}, line {number}: image {key} a second time")
            found[key] = name
        if not found:
            raise DataError(f"{path} lists no images")
        return found

    def _of_images(self, file: str, allowed: range) -> list[int]:
        """One whole number an image."""
        path = self.folder / file
        found: dict[int, int] = {}
        for number, key, word in read_numbered_lines(path):
            value = parse_int(word, path, number)
            if key in self._images and (value not in allowed or key in found):
                raise DataError(
                    f"{path}, line {number}: {value} for image {key} is not in {allowed.start} to "
                    f"{allowed.stop - 1}, or the image is there twice"
                )
            found[key] = value
        missing = next((key for key in self._images if key not in found), None)
        if missing is not None:
            raise DataError(f"{path}: no line for image {missing}")
        return [found[key] for key in self._images]


def read_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number, from 1, and words of each line that is not blank."""
    try:
        text = read_text_file(path)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: give the folder of CUB-200-2011 that holds images.txt") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if words:
            yield number, words


def read_numbered_lines(path: Path) -> Iterator[tuple[int, int, str]]:
    """Number of each line, the whole number it begins with, and the rest."""
    for number, words in read_lines(path):
        if len(words) < 2:
            raise DataError(
                f"{path}, line {number}: expected a number and what it stands for, not {words[0]!r}"
            )
        yield number, parse_int(words[0], path, number), " ".join(words[1:])


def read_ordered_names(path: Path) -> tuple[str, ...]:
    """The names in a file of lines "1 NAME", "2 NAME", ..., numbered without gaps."""
    found: list[str] = []
    for number, key, name in read_numbered_lines(path):
        if key != len(found) + 1:
            raise DataError(f"{path}, line {number}: number {key} where {len(found) + 1} was expected")
        found.append(name)
    if not found:
        raise DataError(f"{path} is empty")
    return tuple(found)


def parse_int(word: str, path: Path, number: int) -> int:
    """A whole number in a line of a file."""
    try:
        return int(word)
    except ValueError:
        raise DataError(f"{path}, line {number}: expected a whole number, not {word!r}") from None


def parse_float(word: str, path: Path, number: int) -> float:
    """A finite number in a line of a file."""
    value = parse_number(word)
    if value is None:
        raise DataError(f"{path}, line {number}: expected a finite number, not {word!r}")
    return value
