"""CALM's Table 4: the list of ImageNet's supersets (specification C5)."""

from __future__ import annotations

from camrt.engine.class_sets import imagenet_nodes
from camrt.evaluation.papers.published_table import PublishedTable
from camrt.evaluation.papers.reproduced_table import MeasuredFigure, ReproducedRow, ReproducedTable
from camrt.evaluation.papers.run_state import ReproductionRun

__all__ = ["measure_supersets"]


def measure_supersets(run: ReproductionRun, table: PublishedTable) -> ReproducedTable:
    """How many classes lie under each node, in the lists that `calm:kind=subset` and "+Y" take."""
    rows = tuple(
        ReproducedRow(row, row.title, "", {"classes": MeasuredFigure(float(imagenet_nodes()[row.key][1]))})
        for row in table.rows
    )
    return ReproducedTable(table, rows, {}, table.remarks, run.collect_facts())
