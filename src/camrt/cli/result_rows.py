"""The table that `camrt explain` prints of its images in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from camrt.cli.output import add_row, strip_control
from camrt.cli.result_lines import SATURATED_NOTE, is_saturated, name_score
from camrt.engine.explanation import FLAG_NAMES, Explanation

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ResultRow", "make_rows", "print_table"]


@dataclass(frozen=True)
class ResultRow:
    """What is said of an image and one of its targets.

    Attributes:
        address: The image's.
        label: The class, by its name and index.
        answer: The model's probability of it, or its number where it has no probabilities.
        score: What was explained, where that is neither.
        flag: Why there is no map; empty where there is one.
        overlay: The name of the picture; empty where none was drawn.
        saturated: Whether the probability is 1 whatever is altered.
    """

    address: str
    label: str
    answer: str
    score: str
    flag: str
    overlay: str
    saturated: bool


def make_rows(
    files: Sequence[str], explanation: Explanation, overlays: Sequence[str | None], told: bool
) -> list[ResultRow]:
    """The rows of some images, in their order.

    Args:
        files: The images' addresses.
        explanation: Of them.
        overlays: The names of their overlays, one a target, None where one was not drawn; or empty.
        told: Whether the file says how its numbers become probabilities.
    """
    rows = []
    each = explanation.targets_per_image
    for i, file in enumerate(files):
        for t in range(each):
            at = (i, t) if explanation.targets.ndim == 2 else (i,)
            target, score = int(explanation.targets[at]), float(explanation.scores[at])
            flag = int(explanation.flags[at])
            rows.append(
                ResultRow(
                    file,
                    f"{explanation.label(i, t)} ({target})" if explanation.labels else f"class {target}",
                    explanation.answer(i, t),
                    "" if name_score(explanation, i, target, score) else f"{score:.4g}",
                    FLAG_NAMES[flag] if flag else "",
                    (overlays[i * each + t] if overlays else None) or "",
                    is_saturated(explanation, i, target, score, told),
                )
            )
    return rows


def print_table(console: Console, rows: Sequence[ResultRow]) -> None:
    """Prints rows; columns are left out of which nothing is to be said, and the pictures' without room."""
    names = short_names([row.address for row in rows])
    columns = {
        "image": [
            "" if number and rows[number - 1].address == row.address else names[row.address]
            for number, row in enumerate(rows)
        ],
        "class": [row.label for row in rows],
        "probability": [row.answer for row in rows],
        "score": [row.score for row in rows],
        "no map": [row.flag for row in rows],
        "picture": [
            "" if number and rows[number - 1].overlay == row.overlay else row.overlay
            for number, row in enumerate(rows)
        ],
    }
    shown = {title: cells for title, cells in columns.items() if any(cells)}
    widths = [max(map(cell_len, (title, *cells))) for title, cells in shown.items()]
    if sum(widths) + 3 * len(widths) + 1 > console.width:
        shown.pop("picture", None)
    table = Table(*shown)
    for cells in zip(*shown.values(), strict=True):
        add_row(table, *cells)
    console.print(table)
    if any(row.saturated for row in rows):
        console.print(Text(SATURATED_NOTE, "yellow"), soft_wrap=True)


def short_names(addresses: Sequence[str]) -> dict[str, str]:
    """Addresses by their last part, where no two different ones share it."""
    last = {address: strip_control(PurePath(address).name or address) for address in addresses}
    unique = len(set(last.values())) == len(last)
    return last if unique else {address: strip_control(address) for address in last}
