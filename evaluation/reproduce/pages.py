"""The papers' pages in `docs/results`: for every table what is published beside what was measured here.

    python -m camrt.evaluation.reproduce.pages docs/results

writes `calm.md`, `walls.md` and `pixab.md` from the list of `camrt reproduce --list`; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import typer

from camrt.engine.consoles import clear_errors
from camrt.evaluation.report.texts import markdown_text
from camrt.evaluation.reproduce.catalogue import CATALOGUE, Entry
from camrt.evaluation.reproduce.measured import Record
from camrt.evaluation.reproduce.paper_tables import Column, PublishedRow
from camrt.evaluation.reproduce.published import CALM, PIXAB, WALLS
from camrt.evaluation.reproduce.writing import ARROWS, grid, measured_text, published_text
from camrt.export.files import write_whole

__all__ = ["PAGES", "facts_of", "main", "page", "side_by_side"]

PAGES: Mapping[str, str] = MappingProxyType({"calm.md": CALM, "walls.md": WALLS, "pixab.md": PIXAB})
"""The files, and the papers."""
NOTHING = "–"


def side_by_side(entry: Entry) -> tuple[list[str], list[list[str]]]:
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
                texts.append(NOTHING if value is None else measured_text(_rounded(column, record), *value))
            if not records:
                texts.append(NOTHING)
        if any(text != NOTHING for text in texts[1:]):
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


def _rounded(column: Column, record: Record) -> Column:
    """The column with as many digits as the record has."""
    return column if record.digits is None else replace(column, digits=min(column.digits, record.digits))


def facts_of(entry: Entry) -> list[tuple[str, str]]:
    """What is said of an entry, each fact with its name."""
    facts = [("needs", entry.needs), ("command", entry.command), ("time here", entry.duration)]
    if entry.printed is not None:
        facts.append(("published on", entry.printed.setting))
    facts += [("ours", _measured_on(record)) for record in entry.records]
    if not entry.records:
        facts.append(("ours", f"not measured: {entry.why}"))
    return facts


def _measured_on(record: Record) -> str:
    return f"{record.model}: {record.pictures}" + (
        f"; see docs/results/{record.document}" if record.document else ""
    )


def page(paper: str) -> str:
    """The page of a paper as Markdown."""
    lines = [
        f"# {paper}: published and measured",
        "",
        "Made by `python -m camrt.evaluation.reproduce.pages docs/results` from the list that "
        "`camrt reproduce --list` shows; not to be edited by hand. Figures of other networks and pictures "
        "can be compared by their order, not by their value. Arrows point to the better side; – is what a "
        "paper does not print, or what was not measured.",
    ]
    for entry in CATALOGUE.values():
        if entry.paper != paper:
            continue
        lines += ["", f"## {entry.name}", "", markdown_text(entry.heading), ""]
        for name, text in facts_of(entry):
            shown = f"`{text}`" if name == "command" else markdown_text(text)
            lines.append(f"- {name}: {shown}")
        lines += [f"- how: `{record.command}`" for record in entry.records if record.command != entry.command]
        titles, rows = side_by_side(entry)
        if rows:
            lines += ["", *grid(titles, rows)]
        if entry.printed is not None and entry.printed.remarks:
            lines += ["", *(f"- {markdown_text(remark)}" for remark in entry.printed.remarks)]
    return "\n".join(lines) + "\n"


def main(folder: Annotated[Path, typer.Argument(help="Where the pages go: docs/results.")]) -> None:
    """Writes the pages of all papers."""
    with clear_errors():
        for name, paper in PAGES.items():
            write_whole(folder / name, page(paper).encode())
            typer.echo(f"{folder / name}")


if __name__ == "__main__":
    typer.run(main)
