"""What `camrt evaluate` prints of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camrt.cli.output import add_row, make_console, strip_control

if TYPE_CHECKING:
    from camrt.evaluation.suite import Settings

__all__ = ["print_evaluation", "print_plan"]


def print_plan(methods: Sequence[str], metrics: Sequence[str], images: int, settings: Settings) -> None:
    """Prints what will be measured, and how often each method will explain each image, if more than once."""
    from camrt.evaluation.suite.plan import COHERENT, count_further_explanations

    count = images if settings.limit is None else min(images, settings.limit)
    named = "all metrics that the annotations allow" if list(metrics) == ["all"] else ", ".join(metrics)
    make_console().print(
        strip_control(f"{', '.join(methods)} on {count} image{'s' * (count != 1)}: {named}"),
        soft_wrap=True,
        markup=False,
    )
    count = count_further_explanations(metrics, settings)
    if count:
        what = ["itself under its map, for coherency"] * any(name in metrics for name in ("all", *COHERENT))
        what += ["its noisy copies, for max-sensitivity"] * ("sensitivity" in metrics)
        make_console().print(
            f"each method explains each image {count} time{'s' * (count != 1)} more: {'; '.join(what)}",
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
    reasons: dict[str, list[str]] = {}
    for name, why in results["left_out"].items():
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        text = f"not measured: {', '.join(names)}: {why}"
        make_console().print(strip_control(text), soft_wrap=True, markup=False)
    make_console().print(
        strip_control(f"files in {out}: report.html, table.md, .csv and .tex, figures, results.json"),
        soft_wrap=True,
        markup=False,
    )
    if count := len(results["problems"]):
        make_console().print(
            strip_control(
                f"{count} problem{'s' * (count != 1)} with images and annotations, listed in results.json, "
                f"such as: {results['problems'][0]}"
            ),
            soft_wrap=True,
            markup=False,
        )
