"""What `camrt reproduce` prints of the list of tables: an overview, or with `--list` all that is known."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from camrt.engine.consoles import add_row, console, plain
from camrt.evaluation.reproduce.catalogue import CATALOGUE, Entry
from camrt.evaluation.reproduce.pages import facts_of, side_by_side

__all__ = ["overview", "show_entry"]


def overview() -> None:
    """Prints a line for each table and figure."""
    listing = Table("table", "what it is", "paper", "needs", "time here", "ours")
    for entry in CATALOGUE.values():
        ours = ", ".join(record.model for record in entry.records) or f"not measured: {entry.why}"
        add_row(listing, entry.name, entry.heading, entry.paper, entry.needs, entry.duration, ours)
    console().print(listing)
    console().print("camrt reproduce --list [NAME] shows published figures beside ours", soft_wrap=True)


def show_entry(entry: Entry) -> None:
    """Prints all that is known of a table or figure."""
    console().print(
        Text(plain(f"{entry.name}: {entry.heading} — {entry.paper}"), style="bold"), soft_wrap=True
    )
    for name, text in facts_of(entry):
        console().print(plain(f"  {name}: {text}"), soft_wrap=True, markup=False)
    titles, rows = side_by_side(entry)
    if rows:
        table = Table()
        for title in titles:
            table.add_column(Text(plain(title), overflow="fold"))
        for texts in rows:
            add_row(table, *texts)
        console().print(table)
    console().print()
