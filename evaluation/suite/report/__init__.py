"""The report of an evaluation: a Markdown table, and one HTML page that holds all it shows."""

from __future__ import annotations

from camrt.evaluation.suite.report.writer import write_report

__all__ = ["write_report"]
