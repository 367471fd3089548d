"""CALM's Table 4: the list of ImageNet's supersets (specification C5)."""

from __future__ import annotations

from camrt.engine.class_sets import imagenet_nodes
from camrt.evaluation.reproduce.paper_tables import PublishedTable
from camrt.evaluation.reproduce.rows import Figure, Reproduced, Row
from camrt.evaluation.reproduce.running import Run

__all__ = ["supersets"]


def supersets(run: Run, table: PublishedTable) -> Reproduced:
    """How many classes lie under each node, in the lists that `calm:kind=subset` and "+Y" take."""
    rows = tuple(
        Row(row, row.title, "", {"classes": Figure(float(imagenet_nodes()[row.key][1]))})
        for row in table.rows
    )
    return Reproduced(table, rows, {}, table.remarks, run.facts())
