"""What a published table is: measures, and the figures of methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

__all__ = ["Numbers", "PublishedColumn", "PublishedRow", "PublishedTable", "build_rows"]

Numbers = tuple[float | None, ...]


@dataclass(frozen=True)
class PublishedColumn:
    """One measure of a table.

    Attributes:
        name: Of the measure, unique within the table.
        title: As it is printed.
        of: What each published figure is of, such as data sets or networks; one empty text for one figure.
        digits: After the point.
        better: The better side; empty where there is none.
    """

    name: str
    title: str
    of: tuple[str, ...] = ("",)
    digits: int = 1
    better: Literal["higher", "lower", ""] = "higher"


@dataclass(frozen=True)
class PublishedRow:
    """What is printed of one method.

    Attributes:
        key: Unique within the table; a method's name in camrt where it has one.
        title: As it is printed.
        figures: By the column's name, one number for each of its `of`; a column that is missing has none.
    """

    key: str
    title: str
    figures: Mapping[str, Numbers]


@dataclass(frozen=True)
class PublishedTable:
    """A table of a paper.

    Attributes:
        name: What `camrt reproduce` calls it.
        title: What it is about.
        paper: Title and venue.
        number: As the paper counts, such as "Table 1"; None where it is not known.
        setting: What the published figures were measured on.
        columns: Its measures.
        rows: Its methods.
        remarks: What a reader must know to compare.
    """

    name: str
    title: str
    paper: str
    number: str | None
    setting: str
    columns: tuple[PublishedColumn, ...]
    rows: tuple[PublishedRow, ...]
    remarks: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """Title and number."""
        return f"{self.title} ({self.number or 'the number of the table is not known'})"


def build_rows(
    titles: Mapping[str, str], columns: tuple[PublishedColumn, ...], numbers: Mapping[str, Numbers]
) -> tuple[PublishedRow, ...]:
    """Rows from all numbers of a method in one line, column after column."""
    rows = []
    for key, line in numbers.items():
        if len(line) != sum(len(column.of) for column in columns):
            raise ValueError(f"{key}: {len(line)} numbers do not fill the columns")
        rest, figures = line, {}
        for column in columns:
            figures[column.name], rest = rest[: len(column.of)], rest[len(column.of) :]
        rows.append(PublishedRow(key, titles[key], MappingProxyType(figures)))
    return tuple(rows)
