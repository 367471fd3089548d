"""What every reader of annotations shares: the checks, and the list of what did not pass them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from camrt.engine.images.read import describe_results, find_images
from camrt.errors import DataError, ImageError
from camrt.evaluation.datasets.class_index import ClassIndex
from camrt.evaluation.datasets.image_probe import image_size, read_mask
from camrt.evaluation.datasets.regions import PngRegion
from camrt.evaluation.datasets.samples import Box, Dataset, Mask, Problem, Sample

__all__ = [
    "AnnotationChecker",
    "SourceLocation",
    "find_single_class",
    "is_utf8",
    "parse_number",
    "quote_untrusted",
]

_ROUNDING = 0.02
"""Pixels that an edge may lie outside by rounding: annotations are often given to two decimals."""

_MAX_SHOWN = 60


class SourceLocation(NamedTuple):
    """Where an annotation stands.

    Attributes:
        file: The annotations' file.
        line: Counted from 1; None where lines mean nothing.
        subject: What it is about, such as "annotation 17"; put before what is wrong.
    """

    file: Path
    line: int | None = None
    subject: str = ""


class AnnotationChecker:
    """Checks annotations one by one and keeps account of the problems.

    Args:
        root: The data set's folder.
        classes: The model's classes.
    """

    def __init__(self, root: Path, classes: ClassIndex) -> None:
        self.root = root
        self.classes = classes
        self._problems: list[Problem] = []
        self._notes: list[str] = []
        self._sizes: dict[Path, tuple[int, int] | None] = {}

    def report(self, location: SourceLocation, what: str) -> None:
        """Puts a problem on the list."""
        text = f"{location.subject}: {what}" if location.subject else what
        self._problems.append(Problem(location.file, location.line, text))

    def add_note(self, text: str) -> None:
        """Adds what is not wrong but should be known."""
        self._notes.append(text)

    def build_dataset(self, kind: str, samples: Iterable[Sample]) -> Dataset:
        """Everything that was read."""
        ordered = tuple(sorted(samples, key=lambda sample: sample.name))
        if not ordered and not self._problems:
            self.report(SourceLocation(self.root), "the data set has no image")
        return Dataset(kind, self.root, ordered, tuple(self._problems), tuple(self._notes))

    def relative_name(self, path: Path) -> str:
        """An image's path below the root; bytes in it that are no text as escapes."""
        return path.relative_to(self.root).as_posix().encode("utf-8", "backslashreplace").decode()

    def image_size(self, path: Path) -> tuple[int, int] | None:
        """An image's (height, width); None, and one problem, where it cannot be found out."""
        if path not in self._sizes:
            try:
                self._sizes[path] = image_size(path)
            except ImageError as error:
                self._sizes[path] = None
                self.report(SourceLocation(path), str(error))
        return self._sizes[path]

    def find_images(self, folder: Path, without: Sequence[Path] = ()) -> list[Path]:
        """The images in a folder whose size can be read, those in some folders excepted."""
        found = find_images(
            [folder],
            on_error=lambda error: self.report(SourceLocation(folder), str(error)),
            on_results=lambda place, count: self.add_note(describe_results(place, count)),
        )
        inside = (path for path in found if not any(path.is_relative_to(other) for other in without))
        return [path for path in inside if self.image_size(path) is not None]

    def find_file(
        self, text: str, location: SourceLocation, folders: Sequence[Path], what: str
    ) -> Path | None:
        """The file that an annotation names, in the first of some folders that has it.

        Names may not lead out of a folder; links inside it are the user's own and are followed.
        """
        parts = re.split(r"[\\/]", text)
        if not text.strip() or "\0" in text or ".." in parts or not parts[0] or re.match("[A-Za-z]:", text):
            self.report(
                location,
                f"{what} {quote_untrusted(text)} is not a name below the data set's folder; left out",
            )
            return None
        candidates = [folder / PurePosixPath(text) for folder in folders]
        found = next((path for path in candidates if _is_file(path)), None)
        if found is None:
            self.report(location, f"{what} {quote_untrusted(text)} is missing; left out")
        return found

    def find_image(self, text: str, location: SourceLocation, folders: Sequence[Path]) -> Path | None:
        """The image that an annotation names, if it is there and its size can be read."""
        found = self.find_file(text, location, folders, "the image")
        return found if found is not None and self.image_size(found) is not None else None

    def find_label(self, text: str, location: SourceLocation) -> int | None:
        """The class that an annotation names; None, and a problem, for no class or several."""
        label = self.classes.find(text)
        if label is None:
            self.report(location, self.classes.reason(text))
        return label

    def check_box(
        self,
        label: int | None,
        edges: Sequence[float | None],
        size: tuple[int, int],
        location: SourceLocation,
        *,
        inclusive: bool = False,
    ) -> Box | None:
        """A box inside its image.

        Args:
            label: Its class.
            edges: x0, y0, x1, y1; None for what is not a finite number.
            size: The image's (height, width).
            location: Where it stands.
            inclusive: x1 and y1 are the last pixels inside. Numbers stay as they are up to the image's
                width and height, since files count from 0 or from 1.

        Returns:
            The box, clipped (and the clipping reported) where it reaches outside; None, and a problem, where
            nothing of it is sound.
        """
        x0, y0, x1, y1 = edges
        if x0 is None or y0 is None or x1 is None or y1 is None:
            self.report(location, "a box's edges must be finite numbers; the box is left out")
            return None
        height, width = size
        text = f"box ({x0:.7g}, {y0:.7g}, {x1:.7g}, {y1:.7g})"
        if x1 < x0 or y1 < y0:
            self.report(location, f"{text} is inverted; it is left out")
            return None
        if not inclusive and (x0 == x1 or y0 == y1):
            self.report(location, f"{text} is empty; it is left out")
            return None
        before = x1 < 0 or y1 < 0 if inclusive else x1 <= 0 or y1 <= 0
        if before or x0 >= width or y0 >= height:
            self.report(location, f"{text} is outside the image of {width}×{height}; it is left out")
            return None
        slack = 0 if inclusive else _ROUNDING
        if min(x0, y0) < -slack or x1 > width + slack or y1 > height + slack:
            self.report(location, f"{text} reaches outside the image of {width}×{height}; it is clipped")
            if inclusive:
                x1 = x1 if x1 <= width else width - 1
                y1 = y1 if y1 <= height else height - 1
        return Box(label, max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height))

    def is_stated_size(
        self, stated: Sequence[float | None], size: tuple[int, int], location: SourceLocation
    ) -> bool:
        """Whether annotations were made on the image as it is; otherwise a problem is listed.

        Args:
            stated: Width and height as the annotations have them.
            size: The image's (height, width).
            location: Where they stand.
        """
        width, height = stated
        if width is None or height is None:
            self.report(location, "the stated width and height must be numbers; the annotations are left out")
            return False
        if [height, width] == [*size]:
            return True
        turned = (
            ", the same turned: annotations belong on the upright image" if [width, height] == [*size] else ""
        )
        self.report(
            location,
            f"the annotations are of {width:.7g}×{height:.7g} pixels, the image has {size[1]}×{size[0]}"
            f"{turned}; they are left out",
        )
        return False

    def check_png_mask(self, path: Path, size: tuple[int, int], *, scaled: bool = False) -> PngRegion | None:
        """A PNG mask that was read through; None, and a problem of that file, where it is unsound.

        Args:
            path: The file.
            size: The image's (height, width).
            scaled: Take a mask of another size than the image.
        """
        try:
            read_mask(path, None if scaled else size)
        except DataError as error:
            self.report(SourceLocation(path), f"{error}; the mask is left out")
            return None
        return PngRegion(path, scaled)

    def read_lines(self, path: Path) -> Iterator[tuple[int, str]]:
        """The lines of a text file that are not blank, stripped, with their numbers from 1."""
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            for line, text in enumerate(file, 1):
                if not is_utf8(text):
                    self.report(SourceLocation(path, line), "not UTF-8; the line is left out")
                elif text.strip():
                    yield line, text.strip()


def is_utf8(text: str) -> bool:
    """Whether a text read with `errors="surrogateescape"` was sound."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def parse_number(text: str) -> float | None:
    """The finite number that a text is; None for anything else, "nan" and "1_0" included."""
    if len(text) > _MAX_SHOWN or "_" in text or not text.isascii():
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) else None


def find_single_class(boxes: Iterable[Box], masks: Iterable[Mask]) -> int | None:
    """The one class that all objects of an image have; None for several, or for none."""
    found = ({box.label for box in boxes} | {mask.label for mask in masks}) - {None}
    return found.pop() if len(found) == 1 else None


def quote_untrusted(text: object) -> str:
    """Untrusted text, quoted, escaped and shortened for a message."""
    plain = ascii(text) if not isinstance(text, str) or not text.isprintable() else repr(text)
    return plain if len(plain) <= _MAX_SHOWN else plain[: _MAX_SHOWN - 3] + "..."


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for the file system
        return False
