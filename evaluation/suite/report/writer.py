"""Writing the report's files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from camrt.evaluation.suite.report.examples import draw_examples
from camrt.evaluation.suite.report.figures import draw_curves, draw_map_figure, to_pdf, to_svg
from camrt.evaluation.suite.report.page import render_page
from camrt.evaluation.suite.report.paper_tables import to_csv, to_tex
from camrt.evaluation.suite.report.table import to_markdown
from camrt.export.io.atomic_files import write_atomic

if TYPE_CHECKING:
    from camrt.evaluation.suite import Evaluation

__all__ = ["write_report"]


def write_report(evaluation: Evaluation, folder: Path) -> None:
    """Writes report.html, the table as Markdown, CSV and LaTeX, and the figures as PDF."""
    results = evaluation.results
    examples, curves = draw_examples(evaluation), draw_curves(results)
    for name, text in (
        ("table.md", to_markdown(results)),
        ("table.csv", to_csv(results)),
        ("table.tex", to_tex(results)),
        ("report.html", render_page(evaluation, [to_svg(figure) for figure in curves.values()], examples)),
    ):
        write_atomic(folder / name, text.encode())
    figures = curves | ({"maps": draw_map_figure(examples)} if examples else {})
    for name, figure in figures.items():
        write_atomic(folder / "figures" / f"{name}.pdf", to_pdf(figure))
