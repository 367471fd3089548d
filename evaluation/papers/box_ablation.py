"""The ablation of Pixab-CAM's boxes: which shapes, and which of its two perspectives.

"Pixab-CAM: Attend Pixel, not Channel" (ICLR 2022 submission), tables of DAP1 and DAP2 by box (specification
E12). The measurement is `camrt.evaluation.metrics.patch_tasks.measure_patch_localisation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Literal

from camrt.engine.methods.boxes import Assignment
from camrt.engine.methods.pixab import PixabCAM

__all__ = ["BoxSetting", "box_table"]

Reading = Literal["N1", "N2", "N3"]
Perspectives = Literal["both", "deletion", "preservation"]
Figures = tuple[float, float, float, float]


@dataclass(frozen=True)
class BoxSetting:
    """One row of the box ablation, in one reading of what the paper leaves open.

    Attributes:
        boxes: Shapes, (height, width) in cells.
        perspectives: "both", "deletion" or "preservation".
        reading: N1, N2 or N3, the denominators; see `PixabCAM`.
        assignment: "coverage", "same" or "anchor"; see `PixabCAM`.
        published: PG and OL of DAP1, then of DAP2, in per cent, of Inception-v3 and 500 images each. None
            for sides of 3: any of them drops PG to 48 to 50 and OL to about 41, the paper says.
    """

    boxes: tuple[tuple[int, int], ...]
    perspectives: Perspectives
    reading: Reading
    assignment: Assignment
    published: Figures | None

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


_PUBLISHED_BOXES: Mapping[tuple[Perspectives, tuple[str, ...]], Figures | None] = MappingProxyType(
    {
        ("deletion", ("1x1",)): (52.6, 44.3, 51.9, 44.8),
        ("deletion", ("1x2",)): (52.4, 43.9, 52.3, 44.6),
        ("deletion", ("2x1",)): (51.9, 43.8, 52.0, 44.1),
        ("deletion", ("2x2",)): (52.8, 44.1, 52.2, 44.4),
        ("preservation", ("1x1",)): (52.9, 44.0, 52.2, 44.1),
        ("preservation", ("1x2",)): (52.2, 43.8, 52.0, 44.2),
        ("preservation", ("2x1",)): (51.7, 44.3, 51.9, 43.9),
        ("preservation", ("2x2",)): (52.5, 43.8, 51.3, 44.3),
        ("both", ("1x1",)): (53.8, 47.1, 53.3, 46.6),
        ("both", ("1x2",)): (52.8, 46.5, 52.3, 45.9),
        ("both", ("2x1",)): (53.8, 46.4, 52.7, 45.5),
        ("both", ("2x2",)): (53.5, 48.1, 53.1, 45.7),
        ("both", ("1x3",)): None,
        ("both", ("3x1",)): None,
        ("both", ("2x3",)): None,
        ("both", ("3x2",)): None,
        ("both", ("3x3",)): None,
        ("both", ("1x1", "1x2")): (53.8, 47.5, 52.9, 47.7),
        ("both", ("1x1", "2x1")): (54.1, 47.5, 53.3, 48.0),
        ("both", ("1x1", "2x2")): (54.4, 47.8, 53.1, 48.4),
        ("both", ("1x1", "1x2", "2x1")): (54.6, 48.4, 53.6, 49.3),
        ("both", ("1x1", "1x2", "2x2")): (55.1, 49.4, 54.5, 51.0),
        ("both", ("1x1", "2x1", "2x2")): (54.9, 49.9, 54.2, 50.6),
        ("both", ("1x1", "1x2", "2x1", "2x2")): (55.3, 50.1, 54.9, 51.3),
    }
)


def box_table(
    readings: Sequence[Reading] = ("N1", "N2", "N3"),
    assignments: Sequence[Assignment] = ("coverage", "same", "anchor"),
) -> tuple[BoxSetting, ...]:
    """The settings of Pixab-CAM's ablation of boxes (specification E12), in every reading asked for.

    24 settings a reading and assignment. Their methods go to `adversarial_patch_task`. With one perspective
    alone the denominator scales the whole map, so that readings differ only where both are taken.

    Args:
        readings: What the perspectives are divided by.
        assignments: Which placements of a box speak for a cell.

    Raises:
        MethodError: When its `method` is asked for: a reading or an assignment that does not exist.
    """
    return tuple(
        BoxSetting(
            tuple((int(shape[0]), int(shape[2])) for shape in shapes),
            perspectives,
            reading,
            assignment,
            figures,
        )
        for reading, assignment in product(readings, assignments)
        for (perspectives, shapes), figures in _PUBLISHED_BOXES.items()
    )
