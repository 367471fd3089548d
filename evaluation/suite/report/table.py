"""The figures as a table: methods down, metrics across, the best marked, and how many maps counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from camrt.evaluation.escaping import escape_markdown
from camrt.evaluation.suite.measurement import CENTRE_BASELINE
from camrt.evaluation.suite.metric_registry import METRICS, title_of_left_out
from camrt.evaluation.suite.summary import is_clearly_behind

__all__ = [
    "ReportCell",
    "ReportColumn",
    "build_columns",
    "describe_counts",
    "describe_further_explanations",
    "describe_same_maps",
    "removal_rows",
    "to_markdown",
]


@dataclass(frozen=True)
class ReportCell:
    """One figure, as it is written.

    Attributes:
        text: The figure.
        best: Whether none is better, and some method is clearly behind it.
        is_tied: Whether it is not clearly behind such a best one.
        value: The figure as a number, if there is one.
        error: Its standard error, if it has one.
    """

    text: str
    best: bool = False
    is_tied: bool = False
    value: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class ReportColumn:
    """One metric over all methods.

    Attributes:
        name: Of the metric.
        title: With an arrow to the better side.
        cells: One a method.
        counted: How many maps each figure is of, as text.
        remark: What did not count, or nothing.
    """

    name: str
    title: str
    cells: tuple[ReportCell, ...]
    counted: str
    remark: str


def build_columns(results: Mapping[str, Any]) -> tuple[list[str], list[ReportColumn]]:
    """The methods, the baseline last, and a column for each metric."""
    figures = results["figures"]
    methods = [*results["methods"], *([CENTRE_BASELINE] if figures.get(CENTRE_BASELINE) else [])]
    return methods, [
        _column(name, [figures[method].get(name) for method in methods], methods)
        for name in results["metrics"]
    ]


def _column(name: str, found: Sequence[Mapping[str, Any] | None], methods: Sequence[str]) -> ReportColumn:
    metric = METRICS[name]
    values = [None if figure is None else figure["value"] for figure in found]
    # The baseline is there to be beaten, and is never marked.
    rivals = [
        value
        for value, method in zip(values, methods, strict=True)
        if value is not None and method != CENTRE_BASELINE
    ]
    best = (max(rivals) if metric.better == "higher" else min(rivals)) if len(rivals) > 1 else None
    level = [
        figure is not None and "behind" in figure and value != best and not is_clearly_behind(figure)
        for figure, value in zip(found, values, strict=True)
    ]
    # Where nobody is clearly behind, nobody is ahead.
    ahead = any(
        value is not None and value != best and not tied and method != CENTRE_BASELINE
        for value, tied, method in zip(values, level, methods, strict=True)
    )
    cells = tuple(
        ReportCell(
            _text(metric.digits, figure),
            ahead and value is not None and value == best and method != CENTRE_BASELINE,
            ahead and tied,
            value,
            None if figure is None else figure.get("error"),
        )
        for figure, value, tied, method in zip(found, values, level, methods, strict=True)
    )
    numbers = {figure["counted"] for figure in found if figure is not None}
    undefined = {
        method: figure["undefined"]
        for figure, method in zip(found, methods, strict=True)
        if figure is not None and figure["undefined"]
    }
    counted = " to ".join(str(number) for number in sorted({min(numbers), max(numbers)})) if numbers else "0"
    remark = ", ".join(f"{method}: {count} undefined, left out" for method, count in undefined.items())
    return ReportColumn(
        name, f"{metric.title} {'↑' if metric.better == 'higher' else '↓'}", cells, counted, remark
    )


def _text(digits: int, figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return ""
    if figure["value"] is None:
        return "undefined"
    text = f"{figure['value']:.{digits}f}"
    if figure.get("error") is None:
        return text
    text += f" ± {figure['error']:.{digits}f}"
    deviation = figure.get("deviation")
    return text if deviation is None else f"{text} (deviation {deviation:.{digits}f})"


def _mark_ties(cell: ReportCell) -> str:
    return f"{cell.text} ≈" if cell.is_tied else cell.text


def describe_same_maps(group: Sequence[str]) -> str:
    """A sentence which says that these methods give the same maps on this model."""
    return f"{', '.join(group)}: the same maps on this model; their figures differ by rounding alone"


def describe_further_explanations(results: Mapping[str, Any]) -> list[str]:
    """A sentence which says how often each method explained each image beside the first time, if it did."""
    count = results["further_explanations"]
    return [f"each method explained each image {count} time{'s' * (count != 1)} more"] if count else []


def describe_counts(images: Mapping[str, Any]) -> str:
    """How many images were measured, of how many."""
    drawn, found = images["drawn"], images["found"]
    return f"{images['measured']} of {drawn} images measured" + (
        f", drawn from the {found} that there are" if found > drawn else ""
    )


def removal_rows(results: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """R_k of every method, with the accuracies it is made of."""
    rows = []
    for method, found in results["figures"].items():
        shares = (found.get("removal") or {}).get("shares")
        if shares:
            rows.append((method, [_ratio(entry) for entry in shares]))
    return rows


def _ratio(entry: Mapping[str, Any]) -> str:
    if entry["ratio"] is None:
        return "undefined"
    return f"{entry['ratio']:.2f} ({100 * entry['accuracy']:.0f}/{100 * entry['random']:.0f} %)"


def to_markdown(results: Mapping[str, Any]) -> str:
    """The table as Markdown, with what a reader needs to judge it."""
    methods, found = build_columns(results)
    images, model = results["images"], results["model"]
    lines = [
        f"# Explanations of {escape_markdown(model['file'])}",
        "",
        f"{describe_counts(images)} ({results['data']['kind']}, "
        f"{escape_markdown(results['data']['root'])}); accuracy {_share(images['accuracy'])} of "
        f"{images['with_label']} with a class; {images['objects']} annotated classes in "
        f"{images['with_objects']} images, on average {_share(images['object_share'])} of the image. "
        "Arrows point to the better side; ± is the standard error of the mean; the best is bold where some "
        "method is clearly behind it, and ≈ marks what is behind it by less than two standard errors of the "
        "paired difference.",
        "",
        "| method | " + " | ".join(column.title for column in found) + " |",
        "| --- |" + " --- |" * len(found),
    ]
    for number, method in enumerate(methods):
        cells = [column.cells[number] for column in found]
        lines.append(
            f"| {escape_markdown(method)} | "
            + " | ".join(f"**{cell.text}**" if cell.best else _mark_ties(cell) for cell in cells)
            + " |"
        )
    lines.append("| maps that counted | " + " | ".join(column.counted for column in found) + " |")
    lines.append("")
    lines += [
        f"- {column.title[:-2]}: {escape_markdown(column.remark)}." for column in found if column.remark
    ]
    lines += [
        f"- {title_of_left_out(name)}: not measured: {escape_markdown(why)}."
        for name, why in results["left_out"].items()
    ]
    lines += [f"- {escape_markdown(describe_same_maps(group))}." for group in results["alike"]]
    lines += [f"- {line}." for line in describe_further_explanations(results)]
    if CENTRE_BASELINE in methods:
        lines.append(f"- {CENTRE_BASELINE}: a Gaussian in the middle of every image, whatever it shows.")
    rows = removal_rows(results)
    if rows:
        shares = [f"{share:g}" for share in results["settings"]["shares"]]
        lines += [
            "",
            "R_k = accuracy left / accuracy left with as many random pixels erased, by the share erased; "
            "undefined where the latter is zero. The figure above takes all shares together, the sum of all "
            "accuracies left over that of all random ones:",
            "",
        ]
        lines += ["| method | " + " | ".join(shares) + " |", "| --- |" + " --- |" * len(shares)]
        lines += [f"| {escape_markdown(method)} | " + " | ".join(cells) + " |" for method, cells in rows]
    if results["problems"]:
        lines += ["", f"{len(results['problems'])} problems with images and annotations:", ""]
        lines += [f"- {escape_markdown(problem)}" for problem in results["problems"][:20]]
        if len(results["problems"]) > 20:
            lines.append(f"- and {len(results['problems']) - 20} more, in results.json")
    return "\n".join(lines) + "\n"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"
