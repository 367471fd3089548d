"""results.csv: what a run found, a line for each image and class, for spreadsheets and scripts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from camrt.engine.runs.rows import FAILED, READ, answer_columns, to_text
from camrt.engine.runs.stream import ExplainedBatch, Question

__all__ = ["RESULTS", "make_lines", "make_table"]

RESULTS = "results.csv"
ANSWERS = ("rank", "class", "label", "probability", "logit", "score", "flag")
FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets take for the beginning of one
COLUMNS = ("path", "status", "method", *ANSWERS, "overlay", "error")


def make_lines(batch: ExplainedBatch, question: Question, overlays: Sequence[str | None]) -> str:
    """The lines of some images, in their order.

    Args:
        batch: The images.
        question: What was asked of them.
        overlays: The names of their overlays, one a target of each that was explained; empty where none are
            drawn.
    """
    written = io.StringIO()
    rows = csv.writer(written, lineterminator="\n")
    explanations = [one.numpy() for one in batch.explanations]
    answers = [(name, answer_columns(one)) for name, one in zip(question.names, explanations, strict=False)]
    each = explanations[0].targets_per_image if explanations else 0
    explained = 0
    for image in batch.images:
        path = to_text(image.item.address) or ""
        path = f"./{path}" if path.startswith(FORMULAS) else path
        if image.error is not None:
            rows.writerow([path, FAILED, *[""] * (len(ANSWERS) + 2), to_cell(to_text(image.error))])
            continue
        places = range(explained, explained + each)
        for name, columns in answers:
            for place in places:
                cells = (to_cell(columns[column][place]) for column in ANSWERS)
                overlay = (overlays[place] if overlays else None) or ""
                rows.writerow([path, READ, name, *cells, overlay, ""])
        explained += each
    return written.getvalue()


def to_cell(value: Any) -> str:
    """A number with the digits of float32, or a text that is no formula; empty where there is none."""
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULAS) else value
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def make_table(lines: Iterable[str]) -> str:
    """The whole table.

    Its columns are those of `camrt.engine.runs.rows.schema` without the maps, `method`, and `overlay`: the
    picture's name in the folder.

    Args:
        lines: Of `make_lines`.
    """
    return "".join([",".join(COLUMNS) + "\n", *lines])
