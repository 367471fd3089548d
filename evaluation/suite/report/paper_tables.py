"""The table of figures for other programs and for papers: as CSV, and as LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from typing import Any

from camrt.engine.printable import replace_unprintable
from camrt.evaluation.suite.metric_registry import METRICS
from camrt.evaluation.suite.report.table import ReportCell, build_columns

__all__ = ["escape_tex", "to_csv", "to_tex"]

_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


def to_csv(results: Mapping[str, Any]) -> str:
    """A row for each method: each metric's figure and its standard error, in full, or nothing."""
    methods, columns = build_columns(results)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [name for column in columns for name in (column.name, f"{column.name}_error")]
    writer.writerow(["method", *names])
    for number, method in enumerate(methods):
        cells = [column.cells[number] for column in columns]
        numbers = [value for cell in cells for value in (cell.value, cell.error)]
        writer.writerow(
            [replace_unprintable(method), *("" if value is None else repr(float(value)) for value in numbers)]
        )
    return text.getvalue()


def to_tex(results: Mapping[str, Any]) -> str:
    """The table in LaTeX, which needs the package booktabs; the best is bold where the report has it bold."""
    methods, columns = build_columns(results)
    arrows = {"higher": r"$\uparrow$", "lower": r"$\downarrow$"}
    titles = [f"{escape_tex(METRICS[one.name].title)} {arrows[METRICS[one.name].better]}" for one in columns]
    lines = [
        r"\begin{tabular}{l" + "r" * len(columns) + "}",
        r"\toprule",
        " & ".join(["method", *titles]) + r" \\",
        r"\midrule",
    ]
    for number, method in enumerate(methods):
        cells = [_to_tex_cell(column.cells[number]) for column in columns]
        lines.append(" & ".join([escape_tex(method), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def escape_tex(text: str) -> str:
    """Text in which nothing is a command of LaTeX."""
    return re.sub(r"[\\~^&%$#_{}]", lambda found: _TEX[found[0]], replace_unprintable(text))


def _to_tex_cell(cell: ReportCell) -> str:
    text = escape_tex(cell.text).replace("±", r"$\pm$")
    return rf"\textbf{{{text}}}" if cell.best else text
