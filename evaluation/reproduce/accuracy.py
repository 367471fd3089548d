"""CALM's Table 2: the accuracy of a classifier (specification C6)."""

from __future__ import annotations

import numpy as np

from camrt.engine.methods import build
from camrt.errors import PictureError
from camrt.evaluation.reproduce.paper_tables import PublishedTable
from camrt.evaluation.reproduce.rows import Reproduced, Row, mean_figure
from camrt.evaluation.reproduce.running import NO_DATA, Run
from camrt.evaluation.suite import Settings
from camrt.evaluation.suite.evaluating import drawn
from camrt.evaluation.suite.preparing import prepare_sample

__all__ = ["accuracy"]


def accuracy(run: Run, table: PublishedTable) -> Reproduced:
    """How often the best class is the true one; the figure stands in the row of the model's kind."""
    good, refused = run.admitted({"calm": build("calm", {}), "cam": build("cam", {})})
    kind = next(iter(good), "model")
    either = "the row of this model's CALM is either of them"
    reasons = {"calm-em": either, "calm-ml": either, "model": "it is one of them"}
    reasons |= {name: f"the model is of another kind: {text}" for name, text in refused.items()}
    facts, found, why = run.facts(), {}, NO_DATA
    if run.data is not None:
        right, unreadable = right_answers(run)
        why = "" if right else "no picture has a class"
        facts |= {"pictures": len(right), "unreadable pictures": unreadable}
        found = {"accuracy": mean_figure(right, 100)} if right else {}
    rows = tuple(
        Row(row, row.title, "", found, why)
        if row.key == kind
        else Row(row, row.title, why=reasons.get(row.key, "it is another of them"))
        for row in table.rows
    )
    return Reproduced(table, rows, {}, table.remarks, facts)


def right_answers(run: Run) -> tuple[list[bool], int]:
    """Of each picture with a class whether the model's best one is it; and how many cannot be read."""
    known = [sample for sample in run.dataset.samples if sample.label is not None]
    samples = drawn(known, Settings(seed=run.options.seed, limit=run.options.limit))
    right: list[bool] = []
    unreadable, size = 0, run.engine.batch_size
    for start in range(0, len(samples), size):
        run.tell("classes of pictures", start, len(samples))
        ready = []
        for sample in samples[start : start + size]:
            try:
                ready.append(prepare_sample(sample, run.preprocessing, masks=False))
            except PictureError:
                unreadable += 1
        if ready:
            best = run.engine.predict(np.stack([item.pixels for item in ready])).argmax(axis=1)
            right += [bool(found == item.label) for found, item in zip(best, ready, strict=True)]
    return right, unreadable
