"""Boxes in a CSV file, one a row, in half-open pixels."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from camrt.errors import DataError
from camrt.evaluation.datasets.annotation_checks import (
    AnnotationChecker,
    SourceLocation,
    is_utf8,
    parse_number,
    quote_untrusted,
)
from camrt.evaluation.datasets.samples import Box, Mask, Sample

__all__ = ["CsvHeader", "read_csv", "read_csv_header"]

_FILE = ("file", "image", "filename", "path")
_LABEL = ("label", "class")
_CORNERS = (("x0", "y0", "x1", "y1"), ("xmin", "ymin", "xmax", "ymax"), ("x", "y", "w", "h"))
_MAX_HEADER_LENGTH = 65536  # characters of a header


@dataclass(frozen=True)
class CsvHeader:
    """Which column of the CSV file holds what.

    Attributes:
        columns: How many there are.
        delimiter: What separates them.
        file: Of the image's name.
        label: Of the class; None without.
        edges: Of the four edges; None without.
        extent: Whether the edges are x, y, width and height.
        mask: Of a PNG mask's name; None without.
    """

    columns: int
    delimiter: str
    file: int
    label: int | None
    edges: tuple[int, ...] | None
    extent: bool
    mask: int | None

    @classmethod
    def parse(cls, line: str) -> CsvHeader:
        """Reads a header line.

        Raises:
            DataError: No column for images, some columns of a box but not all four, or a name twice.
        """
        delimiter = max(",;\t", key=line.count)
        names = [name.strip().casefold() for name in next(csv.reader([line], delimiter=delimiter), [])]
        if len(set(names)) != len(names):
            raise DataError("the header has a column twice")
        file = next((name for name in _FILE if name in names), None)
        if file is None:
            raise DataError(f"the header has no column {', '.join(_FILE[:-1])} or {_FILE[-1]}")
        whole = next((four for four in _CORNERS if set(four) <= set(names)), None)
        if whole is None and any(name in names for four in _CORNERS for name in four):
            raise DataError("a box needs columns x0,y0,x1,y1 or xmin,ymin,xmax,ymax or x,y,w,h")
        label = next((name for name in _LABEL if name in names), None)
        return cls(
            len(names),
            delimiter,
            names.index(file),
            None if label is None else names.index(label),
            None if whole is None else tuple(names.index(name) for name in whole),
            whole == _CORNERS[2],
            names.index("mask") if "mask" in names else None,
        )


@dataclass
class _ImageRows:
    """What the rows of one image say."""

    labels: set[int] = field(default_factory=set)
    boxes: list[Box] = field(default_factory=list)
    masks: list[Mask] = field(default_factory=list)


def read_csv_header(path: Path) -> CsvHeader:
    """The first line of a CSV file.

    Raises:
        DataError: It is not the header of a list of images; see `CsvHeader.of`.
    """
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        try:
            line = file.readline(_MAX_HEADER_LENGTH)
            if len(line) == _MAX_HEADER_LENGTH:
                raise DataError(f"the first line is longer than {_MAX_HEADER_LENGTH} characters")
            return CsvHeader.parse(line)
        except csv.Error as error:
            raise DataError(f"the header cannot be read: {error}") from error


def read_csv(checker: AnnotationChecker, path: Path) -> list[Sample]:
    """Images and boxes of a CSV file with a header; images under the root without a row have no boxes.

    Columns, in any order and any capitals: `file` (or image, filename, path), relative to the root; `label`
    (or class); x0, y0, x1, y1 (or xmin, ymin, xmax, ymax; or x, y, w, h) in half-open pixels; `mask`, a PNG
    file relative to the root. Others are passed over. All but `file` may be missing or left blank.
    """
    try:
        header = read_csv_header(path)
    except DataError as error:
        checker.report(SourceLocation(path, 1), str(error))
        return [
            Sample(checker.relative_name(image), image, None) for image in checker.find_images(checker.root)
        ]
    entries: dict[Path, _ImageRows] = {}
    masks: set[Path] = set()
    for line, row in _rows(checker, path, header):
        place = SourceLocation(path, line)
        image = checker.find_image(row[header.file], place, [checker.root])
        if image is not None:
            _take_row(checker, header, row, place, image, entries.setdefault(image, _ImageRows()), masks)
    _take_images_without_row(checker, path, entries, masks)
    _note_relative_boxes(checker, entries)
    return [
        Sample(
            checker.relative_name(image),
            image,
            next(iter(entry.labels)) if len(entry.labels) == 1 else None,
            tuple(entry.boxes),
            tuple(entry.masks),
        )
        for image, entry in entries.items()
    ]


def _rows(checker: AnnotationChecker, path: Path, header: CsvHeader) -> Iterator[tuple[int, list[str]]]:
    """The rows behind the header, stripped, each with the line that it begins in."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=header.delimiter)
        next(reader)
        while True:
            line = reader.line_num + 1
            try:
                row = [text.strip() for text in next(reader)]
            except StopIteration:
                return
            except csv.Error as error:
                checker.report(SourceLocation(path, line), f"the row cannot be read: {error}")
                continue
            if not any(row):
                continue
            if not all(map(is_utf8, row)):
                checker.report(SourceLocation(path, line), "not UTF-8; the row is left out")
            elif len(row) != header.columns:
                checker.report(
                    SourceLocation(path, line),
                    f"{len(row)} columns where the header has {header.columns}; the row is left out",
                )
            else:
                yield line, row


def _take_row(
    checker: AnnotationChecker,
    header: CsvHeader,
    row: Sequence[str],
    location: SourceLocation,
    image: Path,
    entry: _ImageRows,
    masks: set[Path],
) -> None:
    size = checker.image_size(image)
    assert size is not None
    mask = None
    if header.mask is not None and row[header.mask]:
        mask = checker.find_file(row[header.mask], location, [checker.root], "the mask")
        if mask is not None:
            masks.add(mask)
    label = None
    if header.label is not None and row[header.label]:
        label = checker.classes.find(row[header.label])
        if label is None:
            checker.report(location, f"{checker.classes.reason(row[header.label])}; the row is left out")
            return
        entry.labels.add(label)
    cells = [row[column] for column in header.edges or ()]
    if any(cells):
        wrong = [cell for cell in cells if parse_number(cell) is None]
        if wrong:
            checker.report(
                location, f"{quote_untrusted(wrong[0])} is not a finite number; the box is left out"
            )
        else:
            x0, y0, x1, y1 = map(float, cells)
            edges = (x0, y0, x0 + x1, y0 + y1) if header.extent else (x0, y0, x1, y1)
            box = checker.check_box(label, edges, size, location)
            if box is not None:
                entry.boxes.append(box)
    if mask is not None:
        region = checker.check_png_mask(mask, size)
        if region is not None:
            entry.masks.append(Mask(label, region))


def _take_images_without_row(
    checker: AnnotationChecker, path: Path, entries: dict[Path, _ImageRows], masks: set[Path]
) -> None:
    """Adds the images that the file does not name, but not the masks nor what lies beside them alone."""
    folders = {mask.parent for mask in masks} - {image.parent for image in entries}
    for image in checker.find_images(checker.root, without=sorted(folders)):
        if image not in entries and image not in masks:
            checker.report(SourceLocation(image), f"no row in {path.name}")
            entries[image] = _ImageRows()


def _note_relative_boxes(checker: AnnotationChecker, entries: dict[Path, _ImageRows]) -> None:
    boxes = [box for entry in entries.values() for box in entry.boxes]
    if boxes and all(box.x1 <= 1 and box.y1 <= 1 for box in boxes):
        checker.add_note("every box lies in its image's first pixel: edges must be in pixels, not in shares")
