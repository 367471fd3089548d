"""What the three papers print, read from `published.toml`: a figure that they do not print is None."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from types import MappingProxyType
from typing import Any, get_args

from camrt.engine.class_sets import imagenet_nodes
from camrt.evaluation.papers.published_table import (
    Better,
    Numbers,
    PublishedColumn,
    PublishedRow,
    PublishedTable,
)

__all__ = ["CALM", "PIXAB", "PUBLISHED", "WALLS", "read_published"]


def read_published(text: str) -> Mapping[str, PublishedTable]:
    """The tables of a file such as `published.toml` by name, in its order.

    Raises:
        ValueError: It is not TOML, lacks something, has something that is not known, or a row whose numbers
            do not fill its table's columns.
    """
    try:
        content = tomllib.loads(text)
        titles, papers, shared = content["titles"], content["papers"], content["shared_remarks"]
        tables: dict[str, PublishedTable] = {}
        for entry in content["tables"]:
            columns = tuple(_read_column(column) for column in entry.pop("columns"))
            rows = tuple(
                PublishedRow(key, titles.get(key, key), _read_figures(key, numbers, columns))
                for key, numbers in entry.pop("rows", {}).items()
            )
            remarks = *entry.pop("remarks", ()), *(shared[name] for name in entry.pop("shared_remarks", ()))
            paper, number = papers[entry.pop("paper")], entry.pop("number", None)
            table = PublishedTable(
                **entry, paper=paper, number=number, columns=columns, rows=rows, remarks=remarks
            )
            if table.name in tables:
                raise ValueError(f"{table.name} is there twice")
            tables[table.name] = table
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"these are no published tables: {error!r}") from error
    return MappingProxyType(tables)


def _read_column(entry: Mapping[str, Any]) -> PublishedColumn:
    column = PublishedColumn(**{**entry, "of": tuple(entry.get("of", ("",)))})
    if column.better not in get_args(Better):
        raise ValueError(f"the better side of {column.name!r} cannot be {column.better!r}")
    return column


def _read_figures(
    key: str, numbers: Sequence[float], columns: Sequence[PublishedColumn]
) -> Mapping[str, Numbers]:
    """The numbers of a row by column; none where the row is empty."""
    if not numbers:
        return MappingProxyType({})
    if len(numbers) != sum(len(column.of) for column in columns):
        raise ValueError(f"{key}: {len(numbers)} numbers do not fill the columns")
    rest = [None if math.isnan(number) else number for number in numbers]
    figures = {}
    for column in columns:
        figures[column.name], rest = tuple(rest[: len(column.of)]), rest[len(column.of) :]
    return MappingProxyType(figures)


def _read_all() -> Mapping[str, PublishedTable]:
    """The tables of the package, the nodes of calm-4 among them."""
    tables = read_published(files(__package__).joinpath("published.toml").read_text(encoding="utf-8"))
    nodes = tuple(
        PublishedRow(name, name, MappingProxyType({"classes": (printed,)}))
        for name, (printed, _) in imagenet_nodes().items()
    )
    return MappingProxyType({**tables, "calm-4": replace(tables["calm-4"], rows=nodes)})


PUBLISHED: Mapping[str, PublishedTable] = _read_all()
"""The tables by name, in the order of the papers."""
CALM, WALLS, PIXAB = dict.fromkeys(table.paper for table in PUBLISHED.values())
"""The papers: title and venue."""
