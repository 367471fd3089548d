"""The ablation of Pixab-CAM's boxes: which shapes, and which of its two perspectives.

"Pixab-CAM: Attend Pixel, not Channel" (ICLR 2022 submission), tables of DAP1 and DAP2 by box (specification
E12). The measurement is `camrt.evaluation.metrics.patch_tasks.measure_patch_localisation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, cast

from camrt.engine.methods.boxes import Assignment
from camrt.engine.methods.pixab import PixabCAM
from camrt.evaluation.papers.published import PUBLISHED

__all__ = ["BoxSetting", "box_table"]

Reading = Literal["N1", "N2", "N3"]
Perspectives = Literal["both", "deletion", "preservation"]
TABLES = ("pixab-7", "pixab-8", "pixab-9", "pixab-10")
"""The paper's tables of boxes; their rows are settings by name."""


@dataclass(frozen=True)
class BoxSetting:
    """One row of the box ablation, in one reading of what the paper leaves open.

    Attributes:
        boxes: Shapes, (height, width) in cells.
        perspectives: "both", "deletion" or "preservation".
        reading: N1, N2 or N3, the denominators; see `PixabCAM`.
        assignment: "coverage", "same" or "anchor"; see `PixabCAM`.
    """

    boxes: tuple[tuple[int, int], ...]
    perspectives: Perspectives
    reading: Reading
    assignment: Assignment

    @property
    def name(self) -> str:
        """Such as "1x1+2x2 both"."""
        return f"{'+'.join(f'{m}x{n}' for m, n in self.boxes)} {self.perspectives}"

    @property
    def method(self) -> PixabCAM:
        """The method, on probabilities."""
        return PixabCAM(
            score="probability",
            denominators=self.reading,
            assignment=self.assignment,
            boxes=self.boxes,
            perspectives=self.perspectives,
        )


def box_table(
    readings: Sequence[Reading] = ("N1", "N2", "N3"),
    assignments: Sequence[Assignment] = ("coverage", "same", "anchor"),
) -> tuple[BoxSetting, ...]:
    """The settings of Pixab-CAM's ablation of boxes (specification E12), in every reading asked for.

    24 settings a reading and assignment. Their methods go to `measure_patch_localisation`. With one
    perspective alone the denominator scales the whole map, so that readings differ only where both are taken.

    Args:
        readings: What the perspectives are divided by.
        assignments: Which placements of a box speak for a cell.

    Raises:
        MethodError: When its `method` is asked for: a reading or an assignment that does not exist.
    """
    names = [row.key for table in TABLES for row in PUBLISHED[table].rows]
    return tuple(
        BoxSetting(
            tuple((int(shape[0]), int(shape[2])) for shape in shapes.split("+")),
            cast("Perspectives", perspectives),
            reading,
            assignment,
        )
        for reading, assignment in product(readings, assignments)
        for shapes, perspectives in (name.split(" ") for name in names)
    )
