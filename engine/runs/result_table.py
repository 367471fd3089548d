"""results.csv: what a run found, a line for each image and class, for spreadsheets and scripts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from camrt.engine.runs.rows import FAILED, READ, answer_columns, to_text
from camrt.engine.runs.stream import ExplainedBatch

__all__ = ["RESULTS", "make_lines", "make_table"]

RESULTS = "results.csv"
ANSWERS = ("rank", "class", "label", "probability", "logit", "score", "flag")
COLUMNS = ("path", "status", *ANSWERS, "overlay", "error")


def make_lines(batch: ExplainedBatch, overlays: Sequence[str | None]) -> str:
    """The lines of some images, in their order.

    Args:
        batch: The images.
        overlays: The names of their overlays, one a target of each that was explained; empty where none are
            drawn.
    """
    written = io.StringIO()
    rows = csv.writer(written, lineterminator="\n")
    explanation = None if batch.explanation is None else batch.explanation.numpy()
    each = 0 if explanation is None else explanation.targets_per_image
    answers = {} if explanation is None else answer_columns(explanation)
    explained = 0
    for image in batch.images:
        path = to_text(image.item.address)
        if image.error is not None:
            rows.writerow([path, FAILED, *[""] * (len(ANSWERS) + 1), to_text(image.error)])
            continue
        for place in range(explained, explained + each):
            cells = (to_cell(answers[column][place]) for column in ANSWERS)
            rows.writerow([path, READ, *cells, (overlays[place] if overlays else None) or "", ""])
        explained += each
    return written.getvalue()


def to_cell(value: Any) -> str:
    """A number with as many digits as float32 has; empty for what there is none of."""
    if value is None or value != value:
        return ""
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def make_table(lines: Iterable[str]) -> str:
    """The whole table.

    Its columns are those of `camrt.engine.runs.rows.schema` without the maps, and `overlay`: the picture's
    name in the folder.

    Args:
        lines: Of `make_lines`.
    """
    return "".join([",".join(COLUMNS) + "\n", *lines])
