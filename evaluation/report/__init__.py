"""The report of an evaluation: a Markdown table, and one HTML page that holds all it shows."""

from __future__ import annotations

from camrt.evaluation.report.writing import write_report

__all__ = ["write_report"]
