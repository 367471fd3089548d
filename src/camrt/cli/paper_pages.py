"""The papers' pages in `docs/results`: for every table what is published beside what was measured here.

    python -m camrt.cli.paper_pages docs/results

writes `calm.md`, `walls.md` and `pixab.md` from the list of `camrt reproduce --list`; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import typer

from camrt.cli.output import report_errors
from camrt.evaluation.escaping import escape_markdown
from camrt.evaluation.papers.catalogue import CATALOGUE, CatalogueEntry
from camrt.evaluation.papers.measured import Record
from camrt.evaluation.papers.published import CALM, PIXAB, WALLS
from camrt.evaluation.papers.published_table import PublishedColumn, PublishedRow
from camrt.evaluation.papers.table_text import ARROWS, measured_text, published_text, to_markdown_table
from camrt.export.io.atomic_files import write_atomic

__all__ = ["PAGES", "facts_of", "main", "render_page", "side_by_side"]

PAGES: Mapping[str, str] = MappingProxyType({"calm.md": CALM, "walls.md": WALLS, "pixab.md": PIXAB})
"""The files, and the papers."""
NOT_MEASURED = "–"


def side_by_side(entry: CatalogueEntry) -> tuple[list[str], list[list[str]]]:
    """Titles and rows: of each measure what is published, and what was measured on each model.

    Rows that the paper does not have come last. Of what prints no figures and states nothing there are none.
    """
    table, records = entry.printed, entry.records
    if table is None:
        return _statements(records)
    several = len(records) > 1
    titles = ["method"]
    for column in table.columns:
        of = " / ".join(text for text in column.of if text)
        name = f"{column.title}{ARROWS[column.better]}"
        titles.append(f"{name}, published{f' ({of})' if of else ''}")
        titles += [f"{name}, ours{f' ({record.model})' if several else ''}" for record in records] or [
            f"{name}, ours"
        ]
    rows = list(table.rows)
    own = {row.key for row in rows}
    others = dict.fromkeys(key for record in records for key in record.figures if key not in own)
    rows += [PublishedRow(key, key, MappingProxyType({})) for key in others]
    lines = []
    for row in rows:
        texts = [row.title]
        for column in table.columns:
            texts.append(published_text(column, row))
            for record in records:
                value = record.figures.get(row.key, {}).get(column.name)
                texts.append(
                    NOT_MEASURED if value is None else measured_text(_limit_digits(column, record), *value)
                )
            if not records:
                texts.append(NOT_MEASURED)
        if any(text != NOT_MEASURED for text in texts[1:]):
            lines.append(texts)
    return titles, lines


def _statements(records: tuple[Record, ...]) -> tuple[list[str], list[list[str]]]:
    """What is proved beside what was found."""
    rows = [
        [text, stated, f"{value:.6g}" + (f" ± {error:.2g}" if error else "")]
        for record in records
        for text, stated in record.stated.items()
        for value, error in [record.figures[text]["value"]]
    ]
    return (["statement", "published", "ours"], rows) if rows else ([], [])


def _limit_digits(column: PublishedColumn, record: Record) -> PublishedColumn:
    """The column with as many digits as the record has."""
    return column if record.digits is None else replace(column, digits=min(column.digits, record.digits))


def facts_of(entry: CatalogueEntry) -> list[tuple[str, str]]:
    """What is said of an entry, each fact with its name."""
    facts = [("needs", entry.needs), ("command", entry.command), ("time here", entry.duration)]
    if entry.printed is not None:
        facts.append(("published on", entry.printed.setting))
    facts += [("ours", _measured_on(record)) for record in entry.records]
    if not entry.records:
        facts.append(("ours", f"not measured: {entry.why}"))
    return facts


def _measured_on(record: Record) -> str:
    return f"{record.model}: {record.images}" + (
        f"; see docs/results/{record.document}" if record.document else ""
    )


def render_page(paper: str) -> str:
    """The page of a paper as Markdown."""
    lines = [
        f"# {paper}: published and measured",
        "",
        "Made by `python -m camrt.cli.paper_pages docs/results` from the list that "
        "`camrt reproduce --list` shows; not to be edited by hand. Figures of other networks and images "
        "can be compared by their order, not by their value. Arrows point to the better side; – is what a "
        "paper does not print, or what was not measured.",
    ]
    for entry in CATALOGUE.values():
        if entry.paper != paper:
            continue
        lines += ["", f"## {entry.name}", "", escape_markdown(entry.heading), ""]
        for name, text in facts_of(entry):
            shown = f"`{text}`" if name == "command" else escape_markdown(text)
            lines.append(f"- {name}: {shown}")
        lines += [f"- how: `{record.command}`" for record in entry.records if record.command != entry.command]
        titles, rows = side_by_side(entry)
        if rows:
            lines += ["", *to_markdown_table(titles, rows)]
        if entry.printed is not None and entry.printed.remarks:
            lines += ["", *(f"- {escape_markdown(remark)}" for remark in entry.printed.remarks)]
    return "\n".join(lines) + "\n"


def main(folder: Annotated[Path, typer.Argument(help="Where the pages go: docs/results.")]) -> None:
    """Writes the pages of all papers."""
    with report_errors():
        for name, paper in PAGES.items():
            write_atomic(folder / name, render_page(paper).encode())
            typer.echo(f"{folder / name}")


if __name__ == "__main__":
    typer.run(main)
