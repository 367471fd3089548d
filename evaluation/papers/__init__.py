"""The published tables of three papers, measured again on any model and images.

    from camrt.evaluation.papers import Options, reproduce
    reproduce("pixab-5", engine, "images", options=Options(limit=100)).row("pixab").figures["energy"]

Everything is imported when it is asked for, so that the command line is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from camrt.evaluation.papers.catalogue import CATALOGUE
    from camrt.evaluation.papers.options import Options
    from camrt.evaluation.papers.published import PUBLISHED
    from camrt.evaluation.papers.reproduced_table import MeasuredFigure, ReproducedRow, ReproducedTable
    from camrt.evaluation.papers.reproduction import TABLE_TASKS, reproduce
    from camrt.evaluation.papers.run_state import ReproductionRun

__all__ = [
    "CATALOGUE",
    "PUBLISHED",
    "TABLE_TASKS",
    "MeasuredFigure",
    "Options",
    "ReproducedRow",
    "ReproducedTable",
    "ReproductionRun",
    "reproduce",
]

if not TYPE_CHECKING:  # a type checker would take any name for one that is there
    __getattr__, __dir__, _ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "catalogue": ["CATALOGUE"],
            "options": ["Options"],
            "published": ["PUBLISHED"],
            "reproduced_table": ["MeasuredFigure", "ReproducedRow", "ReproducedTable"],
            "run_state": ["ReproductionRun"],
            "reproduction": ["TABLE_TASKS", "reproduce"],
        },
    )
