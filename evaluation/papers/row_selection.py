"""Which rows of a table are measured, and with what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from camrt.engine.methods import Method
from camrt.engine.methods import methods as registry
from camrt.errors import InputError
from camrt.evaluation.papers.published import PUBLISHED
from camrt.evaluation.papers.published_table import PublishedRow, PublishedTable
from camrt.evaluation.papers.reproduced_table import MeasuredFigure, ReproducedRow
from camrt.evaluation.papers.run_state import ReproductionRun
from camrt.evaluation.suite.settings import parse_methods

__all__ = ["RowSelection", "select_rows", "to_figure"]


@dataclass(frozen=True)
class RowSelection:
    """The rows of a table, and which of them are measured with what.

    Attributes:
        rows: Published rows, and after them rows of methods that the paper does not have.
        methods: By the row's key.
        why: Why rows are not measured, by key.
    """

    rows: tuple[PublishedRow, ...]
    methods: Mapping[str, Method]
    why: Mapping[str, str]

    def build_rows(
        self, figures: Mapping[str, Mapping[str, MeasuredFigure]], why: str = ""
    ) -> tuple[ReproducedRow, ...]:
        """The table's rows with their measured figures.

        Args:
            figures: By the row's key, and the column's name.
            why: The reason that rows get which were selected and not measured.
        """
        return tuple(
            ReproducedRow(
                row,
                row.title,
                repr(self.methods[row.key]) if row.key in figures else "",
                figures.get(row.key, {}),
                "" if row.key in figures else self.why.get(row.key, why),
            )
            for row in self.rows
        )


def select_rows(
    run: ReproductionRun,
    table: PublishedTable,
    methods: Mapping[str, Method],
    why: Mapping[str, str] | None = None,
    postprocess: str | None = None,
) -> RowSelection:
    """Selects the rows that the options ask for and whose methods the model can run.

    Args:
        run: The model and the options.
        table: What is published.
        methods: By the key of the published row.
        why: Why other rows cannot be measured.
        postprocess: For methods that the table does not have.

    Raises:
        MethodError: An unknown method was asked for.
        InputError: All that was asked for are rows of other tables.
    """
    rows, built = list(table.rows), dict(methods)
    if run.options.methods is not None:
        own = {row.key for row in rows}
        elsewhere = {row.key for other in PUBLISHED.values() for row in other.rows} - set(registry())
        asked = [name for name in run.options.methods if name in own or name not in elsewhere]
        if not asked:
            wanted, rest = ", ".join(run.options.methods), ", ".join(row.key for row in rows)
            raise InputError(f"{table.name} has no row {wanted}; its rows are {rest}")
        others = [name for name in asked if name not in own]
        extra = parse_methods(others, postprocess) if others else {}
        rows = [row for row in rows if row.key in asked]
        rows += [PublishedRow(name, name, {}) for name in extra]
        built = {key: method for key, method in (built | extra).items() if key in asked}
    good, refused = run.check_methods(built)
    return RowSelection(
        tuple(rows),
        good,
        dict(why or {}) | {key: f"the model does not admit it: {text}" for key, text in refused.items()},
    )


def to_figure(found: Mapping[str, Any] | None) -> MeasuredFigure:
    """A figure of the suite's results."""
    if found is None:
        return MeasuredFigure(None)
    more = {name: value for name, value in found.items() if name in ("share", "overlaps", "positive_share")}
    return MeasuredFigure(found["value"], found.get("error"), found["counted"], found["undefined"], more)
