"""The images of a run in blocks, each finished as a whole: which ones are done, and which are still to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

from camrt.engine.digests import combined_digest
from camrt.engine.file_names import FileNames
from camrt.engine.runs.items import ImageItem
from camrt.errors import InputError

__all__ = ["Block", "BlockEnd", "FinishedBlock", "KeptBlock", "plan_blocks"]


@dataclass(frozen=True)
class FinishedBlock:
    """A block that was finished by this run or one that it goes on with, as it was noted.

    Attributes:
        digest: Of its images: where they are, their versions, and how their files are called.
        files: What was written.
        images: How many there are.
        errors: What was wrong with those that failed.
        maps: Of rows, the maps' sizes (`camrt.engine.runs.rows.MapShapes`).
        lines: What results.csv says of the images.
    """

    digest: str
    files: list[str]
    images: int
    errors: list[str]
    maps: Mapping[str, Any] | None = None
    lines: str = ""

    @classmethod
    def from_note(cls, note: Mapping[str, Any]) -> FinishedBlock:
        """From a note.

        Raises:
            InputError: It is damaged.
        """
        try:
            files, errors = ([str(one) for one in note[name]] for name in ("files", "errors"))
            maps, lines = note.get("maps"), str(note.get("lines", ""))
            return cls(str(note["digest"]), files, int(note["images"]), errors, maps, lines)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"a note of finished images is damaged: {error!r}") from error


@dataclass(frozen=True)
class Block:
    """Images whose results are finished together.

    Attributes:
        number: From 1.
        items: They.
        stems: How their files are called; no two of a run are the same.
        digest: See `FinishedBlock.digest`.
    """

    number: int
    items: list[ImageItem]
    stems: list[str]
    digest: str


@dataclass(frozen=True)
class KeptBlock:
    """A block whose results are there already."""

    number: int
    finished: FinishedBlock


@dataclass(frozen=True)
class BlockEnd:
    """Stands behind the last image of a block."""


def plan_blocks(
    items: Iterable[ImageItem], size: int, finished: Mapping[int, FinishedBlock], folder: Path
) -> Iterator[Block | KeptBlock]:
    """A run's images in blocks.

    A block is kept where it has the same images under the same names as it had, and all its files are there.

    Args:
        items: The images.
        size: Of a block.
        finished: Blocks by number.
        folder: Where their files are.
    """
    naming = FileNames()
    left = iter(items)
    for number in count(1):
        held = list(islice(left, size))
        if not held:
            return
        stems = [naming.unique_stem(item.stem) for item in held]
        digest = combined_digest(
            part
            for item, stem in zip(held, stems, strict=True)
            for part in (item.address, item.version, item.error, stem)
        )
        former = finished.get(number)
        if (
            former is not None
            and former.digest == digest
            and all((folder / n).is_file() for n in former.files)
        ):
            yield KeptBlock(number, former)
        else:
            yield Block(number, held, stems, digest)
