"""What a published table is: measures, and the figures of methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["Better", "Numbers", "PublishedColumn", "PublishedRow", "PublishedTable"]

Numbers = tuple[float | None, ...]
Better = Literal["higher", "lower", ""]


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
    better: Better = "higher"


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
