"""Boxes in a CSV file, one a row, in half-open pixels."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from camrt.errors import DataError
from camrt.evaluation.datasets.intake import Intake, Place, is_utf8, number, shown
from camrt.evaluation.datasets.samples import Box, Mask, Sample

__all__ = ["Header", "read_header", "read_table"]

_FILE = ("file", "image", "filename", "path")
_LABEL = ("label", "class")
_CORNERS = (("x0", "y0", "x1", "y1"), ("xmin", "ymin", "xmax", "ymax"), ("x", "y", "w", "h"))
_LONGEST = 65536  # characters of a header


@dataclass(frozen=True)
class Header:
    """Where things stand in a row.

    Attributes:
        columns: How many there are.
        delimiter: What separates them.
        file: Of the picture's name.
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
    def of(cls, line: str) -> Header:
        """Reads a header line.

        Raises:
            DataError: No column for pictures, some columns of a box but not all four, or a name twice.
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
class _Entry:
    """What the rows of one picture say."""

    labels: set[int] = field(default_factory=set)
    boxes: list[Box] = field(default_factory=list)
    masks: list[Mask] = field(default_factory=list)


def read_header(path: Path) -> Header:
    """The first line of a CSV file.

    Raises:
        DataError: It is not the header of a list of pictures; see `Header.of`.
    """
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        try:
            line = file.readline(_LONGEST)
            if len(line) == _LONGEST:
                raise DataError(f"the first line is longer than {_LONGEST} characters")
            return Header.of(line)
        except csv.Error as error:
            raise DataError(f"the header cannot be read: {error}") from error


def read_table(intake: Intake, path: Path) -> list[Sample]:
    """Pictures and boxes of a CSV file with a header; pictures under the root without a row have no boxes.

    Columns, in any order and any capitals: `file` (or image, filename, path), relative to the root; `label`
    (or class); x0, y0, x1, y1 (or xmin, ymin, xmax, ymax; or x, y, w, h) in half-open pixels; `mask`, a PNG
    file relative to the root. Others are passed over. All but `file` may be missing or left blank.
    """
    try:
        header = read_header(path)
    except DataError as error:
        intake.report(Place(path, 1), str(error))
        return [Sample(intake.name(picture), picture, None) for picture in intake.pictures(intake.root)]
    entries: dict[Path, _Entry] = {}
    masks: set[Path] = set()
    for line, row in _rows(intake, path, header):
        place = Place(path, line)
        picture = intake.picture(row[header.file], place, [intake.root])
        if picture is not None:
            _take_row(intake, header, row, place, picture, entries.setdefault(picture, _Entry()), masks)
    _take_pictures_without_row(intake, path, entries, masks)
    _doubt_shares(intake, entries)
    return [
        Sample(
            intake.name(picture),
            picture,
            next(iter(entry.labels)) if len(entry.labels) == 1 else None,
            tuple(entry.boxes),
            tuple(entry.masks),
        )
        for picture, entry in entries.items()
    ]


def _rows(intake: Intake, path: Path, header: Header) -> Iterator[tuple[int, list[str]]]:
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
                intake.report(Place(path, line), f"the row cannot be read: {error}")
                continue
            if not any(row):
                continue
            if not all(map(is_utf8, row)):
                intake.report(Place(path, line), "not UTF-8; the row is left out")
            elif len(row) != header.columns:
                intake.report(
                    Place(path, line),
                    f"{len(row)} columns where the header has {header.columns}; the row is left out",
                )
            else:
                yield line, row


def _take_row(
    intake: Intake,
    header: Header,
    row: Sequence[str],
    place: Place,
    picture: Path,
    entry: _Entry,
    masks: set[Path],
) -> None:
    size = intake.size(picture)
    assert size is not None
    mask = None
    if header.mask is not None and row[header.mask]:
        mask = intake.file(row[header.mask], place, [intake.root], "the mask")
        if mask is not None:
            masks.add(mask)
    label = None
    if header.label is not None and row[header.label]:
        label = intake.classes.find(row[header.label])
        if label is None:
            intake.report(place, f"{intake.classes.reason(row[header.label])}; the row is left out")
            return
        entry.labels.add(label)
    cells = [row[column] for column in header.edges or ()]
    if any(cells):
        wrong = [cell for cell in cells if number(cell) is None]
        if wrong:
            intake.report(place, f"{shown(wrong[0])} is not a finite number; the box is left out")
        else:
            x0, y0, x1, y1 = map(float, cells)
            edges = (x0, y0, x0 + x1, y0 + y1) if header.extent else (x0, y0, x1, y1)
            box = intake.box(label, edges, size, place)
            if box is not None:
                entry.boxes.append(box)
    if mask is not None:
        region = intake.png(mask, size)
        if region is not None:
            entry.masks.append(Mask(label, region))


def _take_pictures_without_row(
    intake: Intake, path: Path, entries: dict[Path, _Entry], masks: set[Path]
) -> None:
    """Adds the pictures that the file does not name, but not the masks nor what lies beside them alone."""
    folders = {mask.parent for mask in masks} - {picture.parent for picture in entries}
    for picture in intake.pictures(intake.root, without=sorted(folders)):
        if picture not in entries and picture not in masks:
            intake.report(Place(picture), f"no row in {path.name}")
            entries[picture] = _Entry()


def _doubt_shares(intake: Intake, entries: dict[Path, _Entry]) -> None:
    boxes = [box for entry in entries.values() for box in entry.boxes]
    if boxes and all(box.x1 <= 1 and box.y1 <= 1 for box in boxes):
        intake.note("every box lies in its picture's first pixel: edges must be in pixels, not in shares")
