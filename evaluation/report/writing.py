"""Writing the report's files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from camrt.evaluation.report.page import page
from camrt.evaluation.report.table import markdown
from camrt.export.files import write_whole

if TYPE_CHECKING:
    from camrt.evaluation.suite import Evaluation

__all__ = ["write_report"]


def write_report(evaluation: Evaluation, folder: Path) -> None:
    """Writes table.md and report.html."""
    write_whole(folder / "table.md", markdown(evaluation.results).encode())
    write_whole(folder / "report.html", page(evaluation).encode())
