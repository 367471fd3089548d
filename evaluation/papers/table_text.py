"""A reproduced table as text: published and measured figures side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from camrt.evaluation.escaping import escape_markdown, to_json_bytes
from camrt.evaluation.papers.published_table import PublishedColumn, PublishedRow
from camrt.evaluation.papers.reproduced_table import ReproducedRow, ReproducedTable
from camrt.export.io.atomic_files import write_atomic

__all__ = [
    "ARROWS",
    "FILES",
    "as_json",
    "column_titles",
    "measured_text",
    "notes",
    "pattern_rows",
    "published_text",
    "row_cells",
    "to_markdown",
    "to_markdown_table",
    "write_table",
]

ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}
NOT_PRINTED = "–"
FILES = ("table.md", "results.json")


def column_titles(found: ReproducedTable) -> list[str]:
    """The titles of the columns: for each measure what is published, if anything, and what was measured."""
    titles = ["method"]
    for column in found.table.columns:
        name = f"{column.title}{ARROWS[column.better]}"
        if column.of:
            of = " / ".join(text for text in column.of if text)
            titles.append(f"{name}, published{f' ({of})' if of else ''}")
        if column.name not in found.left_out:
            titles.append(f"{name}, measured")
    return [*titles, *(["remark"] if any(row.why for row in found.rows) else [])]


def row_cells(found: ReproducedTable, row: ReproducedRow) -> list[str]:
    """A row's texts, one for each of `column_titles`."""
    texts = [row.title]
    for column in found.table.columns:
        if column.of:
            texts.append(published_text(column, row.published))
        if column.name not in found.left_out:
            figure = row.figures.get(column.name)
            texts.append("" if figure is None else measured_text(column, figure.value, figure.error))
    if any(other.why for other in found.rows):
        texts.append(f"not measured: {row.why}" if row.why else "")
    return texts


def published_text(column: PublishedColumn, row: PublishedRow) -> str:
    """What a paper prints of a method in one column."""
    numbers = row.figures.get(column.name)
    if numbers is None or all(number is None for number in numbers):
        return NOT_PRINTED
    return " / ".join(NOT_PRINTED if number is None else f"{number:.{column.digits}f}" for number in numbers)


def measured_text(column: PublishedColumn, value: float | None, error: float | None) -> str:
    """A measured figure with its error, by the column's digits."""
    if value is None:
        return "undefined"
    text = f"{value:.{column.digits}f}"
    return text if error is None else f"{text} ± {error:.{max(column.digits, 1)}f}"


def notes(found: ReproducedTable) -> list[str]:
    """What was not measured, what did not count, and the remarks."""
    titles = {column.name: column.title for column in found.table.columns}
    lines = [f"{titles[name]}: not measured: {why}" for name, why in found.left_out.items()]
    for name, title in titles.items():
        numbers = {
            row.figures[name].counted
            for row in found.rows
            if name in row.figures and row.figures[name].counted
        }
        if numbers:
            low, high = min(numbers), max(numbers)
            lines.append(f"{title}: {low if low == high else f'{low} to {high}'} counted")
        lines += [
            f"{title}, {row.title}: {row.figures[name].undefined} undefined, left out"
            for row in found.rows
            if name in row.figures and row.figures[name].undefined
        ]
    return [*lines, *found.remarks]


def pattern_rows(found: ReproducedTable) -> list[list[str]]:
    """Of the box ablation: task, reading, and what became of each of the three statements."""
    patterns: Mapping[str, Any] = found.details.get("patterns", {})
    return [
        [f"{task.upper()}, {reading}", *(own["text"] for own in statements.values())]
        for task, readings in patterns.items()
        for reading, statements in readings.items()
    ]


def to_markdown(found: ReproducedTable) -> str:
    """The table as Markdown."""
    titles = column_titles(found)
    lines = [f"# {found.table.heading}", "", f"{found.table.paper}. Published: {found.table.setting}.", ""]
    model = found.facts["model"]
    lines += [
        f"Measured: {escape_markdown(model['file'])} ({model['classes']} classes), images: "
        f"{escape_markdown(found.facts['data'] or 'none')}. "
        "Arrows point to the better side; ± is the standard error of the mean.",
        "",
    ]
    lines += to_markdown_table(titles, [row_cells(found, row) for row in found.rows])
    patterns = pattern_rows(found)
    if patterns:
        lines += [
            "",
            "Does the paper's pattern hold? Differences in points, ± their paired standard error.",
            "",
        ]
        lines += to_markdown_table(["task, reading, measure", "(1)", "(2)", "(3)"], patterns)
    return "\n".join([*lines, "", *(f"- {escape_markdown(line)}" for line in notes(found))]) + "\n"


def to_markdown_table(titles: list[str], rows: list[list[str]]) -> list[str]:
    """A table of Markdown."""

    def line(texts: list[str]) -> str:
        return f"| {' | '.join(escape_markdown(text) for text in texts)} |"

    return [line(titles), "| --- |" + " --- |" * (len(titles) - 1), *(line(texts) for texts in rows)]


def as_json(found: ReproducedTable) -> dict[str, Any]:
    """What `results.json` holds."""
    table = found.table
    return {
        "table": table.name,
        "title": table.title,
        "paper": table.paper,
        "number": table.number,
        "published on": table.setting,
        "columns": [asdict(column) for column in table.columns],
        "rows": [
            {
                "key": row.published.key,
                "title": row.title,
                "published": {name: list(numbers) for name, numbers in row.published.figures.items()},
                "method": row.method,
                "measured": {name: asdict(figure) for name, figure in row.figures.items()},
                "not measured": row.why,
            }
            for row in found.rows
        ],
        "left out": dict(found.left_out),
        "remarks": list(found.remarks),
        "facts": dict(found.facts),
        **found.details,
    }


def write_table(found: ReproducedTable, folder: Path) -> None:
    """Writes table.md and results.json."""
    write_atomic(folder / "results.json", to_json_bytes(as_json(found)))
    write_atomic(folder / "table.md", to_markdown(found).encode())
