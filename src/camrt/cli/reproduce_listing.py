"""What `camrt reproduce` prints of the list of tables: an overview, or with `--list` all that is known."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from camrt.cli.output import add_row, make_console, strip_control
from camrt.cli.paper_pages import facts_of, side_by_side
from camrt.evaluation.papers.catalogue import CATALOGUE, CatalogueEntry

__all__ = ["print_entry", "print_overview"]


def print_overview() -> None:
    """Prints a line for each table and figure."""
    listing = Table("table", "what it is", "needs", "ours on")
    for entry in CATALOGUE.values():
        ours = ", ".join(record.model for record in entry.records) or "not measured"
        add_row(listing, entry.name, entry.heading, entry.needs, ours)
    make_console().print(listing)
    make_console().print(
        "camrt reproduce --list [NAME] shows published figures beside ours, and what to run for how long",
        soft_wrap=True,
        markup=False,
    )


def print_entry(entry: CatalogueEntry) -> None:
    """Prints all that is known of a table or figure."""
    make_console().print(
        Text(strip_control(f"{entry.name}: {entry.heading} — {entry.paper}"), style="bold"), soft_wrap=True
    )
    for name, text in facts_of(entry):
        make_console().print(strip_control(f"  {name}: {text}"), soft_wrap=True, markup=False)
    titles, rows = side_by_side(entry)
    if rows:
        table = Table()
        for title in titles:
            table.add_column(Text(strip_control(title), overflow="fold"))
        for texts in rows:
            add_row(table, *texts)
        make_console().print(table)
    make_console().print()
