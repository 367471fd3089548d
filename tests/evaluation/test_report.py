"""The report's table: what is marked, and what other programs get of it."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from camrt.evaluation.suite.report.paper_tables import escape_tex, to_csv, to_tex
from camrt.evaluation.suite.report.table import build_columns


def results(**figures: tuple[float | None, float, float | None]) -> dict[str, Any]:
    """Of one metric: for each method its value, its error, and how far it is behind the best, if it is."""
    found = {
        name.replace("_", "-"): {
            "pointing": {"value": value, "error": error, "counted": 9, "undefined": 0}
            | ({} if behind is None else {"behind": {"best": "a", "value": behind, "error": 1.0}})
        }
        for name, (value, error, behind) in figures.items()
    }
    return {"figures": found, "methods": dict.fromkeys(found, ""), "metrics": ["pointing"]}


def marks(given: dict[str, Any]) -> list[str]:
    _, (column,) = build_columns(given)
    return ["best" if cell.best else "tied" if cell.is_tied else "" for cell in column.cells]


def test_the_best_is_marked_where_another_is_clearly_behind() -> None:
    assert marks(results(a=(90, 1, None), b=(89, 1, 1.0), c=(50, 1, 40.0))) == ["best", "tied", ""]


def test_nothing_is_marked_where_all_tie() -> None:
    assert marks(results(a=(90, 1, None), b=(89, 1, 1.0))) == ["", ""]
    assert marks(results(a=(90, 1, None), b=(90, 1, 0.0))) == ["", ""]
    assert marks(results(a=(90, 1, None))) == [""]


def test_csv_has_the_figures_in_full() -> None:
    given = results(a=(1 / 3, 0.1, None), b=(None, 0.2, 1.0))
    rows = list(csv.reader(io.StringIO(to_csv(given))))
    assert rows[0] == ["method", "pointing", "pointing_error"]
    assert float(rows[1][1]) == 1 / 3
    assert rows[2] == ["b", "", "0.2"]


def test_latex_holds_no_command_of_a_name() -> None:
    given = results(a=(90, 1, None), c=(50, 1, 40.0))
    given["figures"]["x_{$}\\input"] = given["figures"].pop("c")
    given["methods"] = dict.fromkeys(given["figures"], "")
    text = to_tex(given)
    assert r"x\_\{\$\}\textbackslash{}input & 50.0 $\pm$ 1.0 \\" in text
    assert r"\textbf{90.0 $\pm$ 1.0}" in text
    assert text.count(r"\begin{tabular}{lr}") == 1


@pytest.mark.parametrize(
    ("given", "made"), [("100 %", r"100 \%"), ("a^b~c", r"a\textasciicircum{}b\textasciitilde{}c")]
)
def test_tex_escapes(given: str, made: str) -> None:
    assert escape_tex(given) == made
