"""What was measured here of the papers' tables, as data: a file for each table, with a record for each model.

The records are made by `camrt.cli.record_results` from the results of `camrt reproduce`, or hold
figures of a document in `docs/results`, which they name. `camrt reproduce --list` shows them, and the pages
of the papers in `docs/results` are written from them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

__all__ = ["Record", "read_records"]

ValueWithError = tuple[float | None, float | None]
"""A figure and its error, each None where there is none."""


@dataclass(frozen=True)
class Record:
    """What was measured of a table on one model.

    Attributes:
        model: The model, in a few words.
        images: What it was measured on, and what ± is, in a few words.
        command: How.
        document: The document in `docs/results` that says more; empty where there is none.
        seconds: How long it took, on the machine that `machine` names; None where that was not measured.
        machine: That machine.
        figures: By the row's key, and the column's name.
        digits: After the point, where the document has fewer than the table; None where it has enough.
        stated: What the paper states of a row, where it proves something and prints no figures.
    """

    model: str
    images: str
    command: str
    figures: Mapping[str, Mapping[str, ValueWithError]]
    document: str = ""
    seconds: float | None = None
    machine: str = ""
    digits: int | None = None
    stated: Mapping[str, str] = field(default_factory=dict)


@cache
def read_records(table: str) -> tuple[Record, ...]:
    """The records of a table, in the order in which they are shown; none where nothing was measured."""
    place = files(__package__).joinpath(f"{table}.json")
    if not place.is_file():
        return ()
    return tuple(parse_record(entry) for entry in json.loads(place.read_text(encoding="utf-8")))


def parse_record(entry: Mapping[str, Any]) -> Record:
    """A record as its file has it."""
    figures = {
        key: MappingProxyType({name: (value[0], value[1]) for name, value in row.items()})
        for key, row in entry["figures"].items()
    }
    return Record(**{**entry, "figures": MappingProxyType(figures)})
