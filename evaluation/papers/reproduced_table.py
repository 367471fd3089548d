"""What reproducing a table gives: each published row with what was measured, or why it was not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from camrt.evaluation.papers.published_table import PublishedRow, PublishedTable

__all__ = ["MeasuredFigure", "ReproducedRow", "ReproducedTable", "mean_figure"]


@dataclass(frozen=True)
class MeasuredFigure:
    """One measured figure.

    Attributes:
        value: None where it is undefined.
        error: Its standard error, where there is one.
        counted: Of how many maps (pairs of classes, in calm-1) it is.
        undefined: How many had none and were left out.
        more: What else belongs to it.
    """

    value: float | None
    error: float | None = None
    counted: int = 0
    undefined: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ReproducedRow:
    """One row.

    Attributes:
        published: What the paper prints; without figures for a method that the paper does not have.
        title: As it is printed here, where one published row is measured in several ways.
        method: The method measured, with its options; empty where none was.
        figures: By the column's name.
        why: Why nothing was measured; empty where something was.
    """

    published: PublishedRow
    title: str
    method: str = ""
    figures: Mapping[str, MeasuredFigure] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True)
class ReproducedTable:
    """A table with what was measured.

    Attributes:
        table: What the paper prints.
        rows: In the paper's order; methods that it does not have are last.
        left_out: Why columns were not measured, by their names.
        remarks: What a reader must know, the published table's own remarks first.
        facts: On what it was measured.
        details: Further findings, by name; those of the box ablation are under "patterns".
    """

    table: PublishedTable
    rows: tuple[ReproducedRow, ...]
    left_out: Mapping[str, str]
    remarks: tuple[str, ...]
    facts: Mapping[str, Any]
    details: Mapping[str, Any] = field(default_factory=dict)

    def row(self, key: str) -> ReproducedRow:
        """The first row of that key or title.

        Raises:
            KeyError: There is none.
        """
        for row in self.rows:
            if key in (row.published.key, row.title):
                return row
        raise KeyError(key)


def mean_figure(values: Iterable[float], scale: float = 1.0) -> MeasuredFigure:
    """Mean and standard error of the values that are not NaN, times `scale`."""
    listed = np.array(list(values), np.float64) * scale
    defined = listed[~np.isnan(listed)]
    error = float(defined.std(ddof=1) / math.sqrt(len(defined))) if len(defined) > 1 else None
    return MeasuredFigure(
        float(defined.mean()) if len(defined) else None, error, len(defined), len(listed) - len(defined)
    )
