"""What reading annotations gives: images with their boxes and masks, and what was wrong with the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from camrt.errors import DataError, InputError
from camrt.evaluation.datasets.regions import Region, check_size

__all__ = ["IGNORE", "OBJECT", "Box", "Dataset", "Mask", "Problem", "Sample", "union_pixels"]

OBJECT = 1
"""The value of an object's pixels."""

IGNORE = 255
"""The value of pixels that count neither as object nor as background."""


@dataclass(frozen=True)
class Box:
    """One object's box, in pixels of the upright image.

    Half-open, so x1 − x0 is the width; only a data set whose `inclusive_boxes` is true has x1 and y1 inside.

    Attributes:
        label: The class's index in the model; None where the annotation states no class, and so means the
            class of the image.
        x0: Left edge.
        y0: Upper edge.
        x1: Right edge.
        y1: Lower edge.

    Raises:
        DataError: An edge that is not finite or negative, or edges in the wrong order.
    """

    label: int | None
    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        edges = (self.x0, self.y0, self.x1, self.y1)
        if not all(isfinite(edge) and edge >= 0 for edge in edges):
            raise DataError(f"a box's edges must be finite and not negative, not {edges}")
        if self.x0 > self.x1 or self.y0 > self.y1:
            raise DataError(f"a box must be (x0, y0, x1, y1) with x0 ≤ x1 and y0 ≤ y1, not {edges}")


@dataclass(frozen=True)
class Mask:
    """The pixels of one object, or of all objects of a class.

    Attributes:
        label: The class's index in the model; None as for `Box`.
        region: The object's pixels; None for a mask that only says what to ignore, such as a COCO crowd.
        ignored: Pixels that count neither as object nor as background.

    Raises:
        DataError: Neither a region nor anything to ignore.
    """

    label: int | None
    region: Region | None
    ignored: tuple[Region, ...] = ()

    def __post_init__(self) -> None:
        if self.region is None and not self.ignored:
            raise DataError("a mask needs a region or something to ignore")

    def pixels(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """The mask in the image's own pixels.

        Args:
            size: The upright image's (height, width).

        Returns:
            uint8 (H, W): 0 background, 1 object, 255 ignore. A pixel that is both is the object's.

        Raises:
            DataError: The mask's file cannot be read any more, or the mask is of another size.
            InputError: A size that is not two positive whole numbers.
        """
        return union_pixels([self], size)


def union_pixels(masks: Sequence[Mask], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Several masks as one: object where any has the object, else ignore where any says so.

    That is how the WSOL benchmark joins an image's instances with its ignore regions (specification C4).

    Args:
        masks: Of one image; may be empty.
        size: The upright image's (height, width).

    Returns:
        uint8 (H, W): 0 background, 1 object, 255 ignore.

    Raises:
        DataError: A mask's file cannot be read any more, or a mask is of another size.
        InputError: A size that is not two positive whole numbers.
    """
    check_size(size)
    marked = np.zeros(size, np.uint8)
    for mask in masks:
        for region in mask.ignored:
            marked[region.pixels(size)] = IGNORE
    for mask in masks:
        if mask.region is not None:
            marked[mask.region.pixels(size)] = OBJECT
    return marked


@dataclass(frozen=True)
class Sample:
    """One image with its annotations.

    Attributes:
        name: Its path below the data set's root with "/" between folders; unique.
        path: The file; it exists and its header could be read.
        label: The image's class: as stated, or the one class that all its objects have; None if unknown
            or if its objects are of several classes.
        boxes: May be empty.
        masks: May be empty.
    """

    name: str
    path: Path
    label: int | None
    boxes: tuple[Box, ...] = ()
    masks: tuple[Mask, ...] = ()


@dataclass(frozen=True)
class Problem:
    """Something wrong with the annotations or with an image.

    Attributes:
        file: Where it was found.
        line: Counted from 1; None where the file has no lines or the fault concerns it all.
        what: What is wrong, and what became of it.
    """

    file: Path
    line: int | None
    what: str

    def __str__(self) -> str:
        place = f"{self.file}" if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.what}"


@dataclass(frozen=True)
class Dataset:
    """Annotated images, as they were read.

    Attributes:
        kind: Which format: one of `camrt.evaluation.datasets.KINDS`.
        root: The folder that names are relative to.
        samples: In the order of their names.
        problems: Everything that was wrong, in the order of reading.
        notes: What a reader of results should know and is not wrong, such as how classes were matched.

    Raises:
        InputError: Samples out of order or with the same name.
    """

    kind: str
    root: Path
    samples: tuple[Sample, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [sample.name for sample in self.samples]
        if names != sorted(set(names)):
            raise InputError("samples must be in the order of their names, each name once")

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def inclusive_boxes(self) -> bool:
        """Whether x1 and y1 are the last pixels inside a box: so only in the WSOL benchmark's own files."""
        return self.kind == "wsol"
