"""CALM's Table 2: the accuracy of a classifier (specification C6)."""

from __future__ import annotations

import numpy as np

from camrt.engine.methods import make_method
from camrt.errors import ImageError
from camrt.evaluation.papers.published_table import PublishedTable
from camrt.evaluation.papers.reproduced_table import ReproducedRow, ReproducedTable, mean_figure
from camrt.evaluation.papers.run_state import NO_DATA, ReproductionRun
from camrt.evaluation.suite import Settings
from camrt.evaluation.suite.prepared_sample import prepare_sample
from camrt.evaluation.suite.runner import draw_samples

__all__ = ["measure_accuracy"]


def measure_accuracy(run: ReproductionRun, table: PublishedTable) -> ReproducedTable:
    """How often the best class is the true one; the figure stands in the row of the model's kind."""
    good, refused = run.check_methods({"calm": make_method("calm", {}), "cam": make_method("cam", {})})
    kind = next(iter(good), "model")
    either = "the row of this model's CALM is either of them"
    reasons = {"calm-em": either, "calm-ml": either, "model": "it is one of them"}
    reasons |= {name: f"the model is of another kind: {text}" for name, text in refused.items()}
    facts, found, why = run.collect_facts(), {}, NO_DATA
    if run.data is not None:
        right, unreadable = check_predictions(run)
        why = "" if right else "no image has a class"
        facts |= {"images": len(right), "unreadable images": unreadable}
        found = {"accuracy": mean_figure(right, 100)} if right else {}
    rows = tuple(
        ReproducedRow(row, row.title, "", found, why)
        if row.key == kind
        else ReproducedRow(row, row.title, why=reasons.get(row.key, "it is another of them"))
        for row in table.rows
    )
    return ReproducedTable(table, rows, {}, table.remarks, facts)


def check_predictions(run: ReproductionRun) -> tuple[list[bool], int]:
    """Of each image with a class whether the model's best one is it; and how many cannot be read."""
    known = [sample for sample in run.dataset.samples if sample.label is not None]
    samples = draw_samples(known, Settings(seed=run.options.seed, limit=run.options.limit))
    right: list[bool] = []
    unreadable, size = 0, run.engine.batch_size
    for start in range(0, len(samples), size):
        run.progress("classes of images", start, len(samples))
        ready = []
        for sample in samples[start : start + size]:
            try:
                ready.append(prepare_sample(sample, run.preprocessing, masks=False))
            except ImageError:
                unreadable += 1
        if ready:
            best = run.engine.predict(np.stack([item.pixels for item in ready])).argmax(axis=1)
            right += [bool(found == item.label) for found, item in zip(best, ready, strict=True)]
    return right, unreadable
