"""Writing the report's files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from camrt.evaluation.suite.report.page import render_page
from camrt.evaluation.suite.report.table import to_markdown
from camrt.export.io.atomic_files import write_atomic

if TYPE_CHECKING:
    from camrt.evaluation.suite import Evaluation

__all__ = ["write_report"]


def write_report(evaluation: Evaluation, folder: Path) -> None:
    """Writes table.md and report.html."""
    write_atomic(folder / "table.md", to_markdown(evaluation.results).encode())
    write_atomic(folder / "report.html", render_page(evaluation).encode())
