"""What `camrt evaluate` prints of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camrt.cli.output import add_row, make_console, strip_control

if TYPE_CHECKING:
    from camrt.evaluation.suite import Settings

__all__ = ["print_evaluation", "print_further_explanations"]


def print_further_explanations(metrics: Sequence[str], settings: Settings) -> None:
    """Prints how often each method will explain each image, where that is more than once."""
    from camrt.evaluation.suite.plan import count_further_explanations

    count = count_further_explanations(metrics, settings)
    if count:
        make_console().print(
            f"each method explains each image {count} time{'s' * (count != 1)} more: once for coherency and "
            "what is made of it, and once a noisy copy for max-sensitivity",
            soft_wrap=True,
        )


def print_evaluation(results: dict[str, Any], out: Path) -> None:
    """Prints the table of an evaluation, what was left out of it, and where its files are."""
    from rich.table import Table

    from camrt.evaluation.suite.report.table import build_columns, describe_counts

    methods, found = build_columns(results)
    rows = [["method", *(column.title for column in found)]]
    rows += [
        [method, *(column.cells[number].text for column in found)] for number, method in enumerate(methods)
    ]
    rows.append(["maps that counted", *(column.counted for column in found)])
    if len(found) > len(rows):  # what is more goes down, where there is room
        rows = [list(row) for row in zip(*rows, strict=True)]
        rows[0][0] = "metric"
    table = Table(*rows[0])
    for row in rows[1:]:
        add_row(table, *row)
    make_console().print(table)
    make_console().print(describe_counts(results["images"]))
    for note in results["notes"]:
        make_console().print(strip_control(note), soft_wrap=True, markup=False)
    for name, why in results["left_out"].items():
        make_console().print(strip_control(f"{name}: not measured: {why}"), soft_wrap=True, markup=False)
    make_console().print(
        strip_control(f"files in {out}: report.html, table.md, results.json"), soft_wrap=True, markup=False
    )
    if count := len(results["problems"]):
        make_console().print(
            f"{count} problem{'s' * (count != 1)} with images and annotations, listed in results.json"
        )
