"""Parts of an image: a PNG file's marked pixels, COCO polygons, COCO run lengths.

Run lengths are not decoded by pycocotools: of lengths that add up to less than the image, its 2.0.11 returns
bytes of memory that nobody wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from camrt.errors import DataError, InputError
from camrt.evaluation.datasets.image_probe import read_mask

__all__ = ["PngRegion", "PolygonRegion", "Region", "RunLengthRegion", "check_size", "decode_run_lengths"]


class Region(Protocol):
    """Some of an image's pixels."""

    def pixels(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """Which pixels of the upright image belong, bool (H, W).

        Args:
            size: The image's (height, width).

        Raises:
            DataError: The region cannot be read, or is of an image of another size.
        """
        ...


@dataclass(frozen=True)
class PngRegion:
    """The pixels of a PNG file that are 1 or 255.

    Attributes:
        path: The file.
        scaled: Whether a file of another size than the image is brought to the image's, by the nearest
            pixel; otherwise it is refused.
    """

    path: Path
    scaled: bool = False

    def pixels(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The pixels of this region, bool (H, W)."""
        try:
            marked = read_mask(self.path, None if self.scaled else size)
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from error
        height, width = marked.shape
        rows = (2 * np.arange(size[0]) + 1) * height // (2 * size[0])
        columns = (2 * np.arange(size[1]) + 1) * width // (2 * size[1])
        return np.asarray(marked[rows[:, None], columns])


@dataclass(frozen=True)
class PolygonRegion:
    """The pixels whose centre lies in any of some polygons.

    The pixel in column c covers [c, c + 1), so its centre is c + 0.5. Inside a polygon is what an odd number
    of its edges separates from the outside. COCO's own tool draws polygons on a grid five times finer and
    may differ in pixels that an edge crosses.

    Attributes:
        rings: One or more polygons, each x, y, x, y, ... of three corners or more, in pixels.
    """

    rings: tuple[tuple[float, ...], ...]

    def pixels(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The pixels of this region, bool (H, W)."""
        inside = np.zeros(size, np.bool_)
        for ring in self.rings:
            inside |= _fill_polygon(ring, size)
        return inside


@dataclass(frozen=True)
class RunLengthRegion:
    """Pixels by run lengths: column by column from the upper left, first a run outside, then one inside.

    Attributes:
        counts: The lengths, which add up to the number of pixels.
        size: The (height, width) that they are of.

    Raises:
        DataError: Negative lengths, or another sum.
    """

    counts: tuple[int, ...]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if any(count < 0 for count in self.counts):
            raise DataError("run lengths must not be negative")
        wanted = self.size[0] * self.size[1]
        if sum(self.counts) != wanted:
            raise DataError(f"the run lengths do not add up to the image's {wanted} pixels")

    def pixels(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The pixels of this region, bool (H, W)."""
        if size != self.size:
            raise DataError(
                f"the run lengths are of {self.size[1]}×{self.size[0]} pixels, not {size[1]}×{size[0]}"
            )
        flags = np.arange(len(self.counts)) % 2 == 1
        return np.repeat(flags, self.counts).reshape(size[1], size[0]).T


def check_size(size: tuple[int, int]) -> None:
    """Refuses what is not an image's height and width.

    Raises:
        InputError: Not two positive whole numbers.
    """
    if len(size) != 2 or not all(isinstance(side, int | np.integer) and side > 0 for side in size):
        raise InputError(f"size={size!r} must be (height, width), positive whole numbers")


def decode_run_lengths(text: str) -> list[int]:
    """COCO's compressed run lengths as numbers.

    Each number is written in groups of five bits, lowest first, one character each from "0" on; a sixth bit
    says that more follow, and the highest of the last group is the sign. From the fourth on, a number is the
    difference to the one two places before it.

    Raises:
        DataError: Characters that do not occur in such a text, a number of more than 60 bits, or one that
            breaks off.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64:
            raise DataError(f"compressed run lengths hold no {character!r}")
        if shift >= 60:
            raise DataError("a compressed run length is too long")
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    if shift:
        raise DataError("the compressed run lengths break off")
    return counts


def _fill_polygon(ring: Sequence[float], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centre lies in one polygon, bool (H, W)."""
    height, width = size
    top, bottom = _row_range(min(ring[1::2]), max(ring[1::2]), height)
    corners = list(zip(ring[::2], ring[1::2], strict=True))
    turns = np.zeros((max(0, bottom - top), width + 1), np.bool_)  # an edge is passed on entering a pixel
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        first, last = _row_range(min(y0, y1), max(y0, y1), height)
        if first < last:
            rows = np.arange(first, last)
            crossings = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
            turns[rows - top, np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.int64)] ^= True
    inside = np.zeros(size, np.bool_)
    inside[top : max(top, bottom)] = np.logical_xor.accumulate(turns[:, :-1], axis=1)
    return inside


def _row_range(low: float, high: float, height: int) -> tuple[int, int]:
    """The rows, from and up to, whose centres lie from `low` to below `high`."""
    return min(max(0, ceil(low - 0.5)), height), min(height, ceil(high - 0.5))
