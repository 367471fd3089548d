"""The tables by name: what each needs, and the function that measures it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from camrt.evaluation.reproduce.accuracy import accuracy
from camrt.evaluation.reproduce.boxes import boxes
from camrt.evaluation.reproduce.brain import brain_maps
from camrt.evaluation.reproduce.calm import cues, localisation, removal
from camrt.evaluation.reproduce.paper_tables import PublishedTable
from camrt.evaluation.reproduce.pixab import by_suite, dependence, objects, overlap, patches
from camrt.evaluation.reproduce.published import PUBLISHED
from camrt.evaluation.reproduce.rows import Reproduced
from camrt.evaluation.reproduce.running import Run
from camrt.evaluation.reproduce.supersets import supersets
from camrt.evaluation.reproduce.walls import dead_zone

__all__ = ["TABLES", "Task"]


@dataclass(frozen=True)
class Task:
    """How a table is measured.

    Attributes:
        published: The table.
        needs: What the model and the pictures must have, in a few words.
        data: What its pictures are called in a command; empty where it needs none.
        measure: Measures it.
    """

    published: PublishedTable
    needs: str
    data: str
    measure: Callable[[Run, PublishedTable], Reproduced]

    @property
    def command(self) -> str:
        """How it is measured on the command line."""
        return f"camrt reproduce {self.published.name} --model MODEL.onnx" + (
            f" --data {self.data}" if self.data else ""
        )


_PATCHES = "a model with gradients and at least 10 classes; pictures for DAP1"
_ZEROS = "a model with gradients and at least 10 classes; no pictures"
_OBJECTS = (
    "boxes for MaxBoxAccV2, masks for PxAP; a CALM model for the rows of CALM, a linear layer after pooling "
    "for those of CAM"
)
_MEASURES: dict[str, tuple[str, str, Callable[[Run, PublishedTable], Reproduced]]] = {
    "calm-1": (
        "the folder of CUB-200-2011 with attributes, parts and segmentations; a model of its classes",
        "CUB_200_2011",
        cues,
    ),
    "calm-2": ("pictures with classes", "PICTURES", accuracy),
    "calm-3": (_OBJECTS, "PICTURES", localisation),
    "calm-4": ("nothing: it is a list of classes, and any model will do", "", supersets),
    "calm-5": (_OBJECTS, "PICTURES", localisation),
    "calm-figure-5": ("pictures with classes", "PICTURES", removal),
    "walls": (
        "a model that cannot see part of its pictures, as camrt train masked-vgg trains; a folder for each "
        "class, to stack pictures of",
        "PICTURES",
        dead_zone,
    ),
    "pixab-6": (_PATCHES, "PICTURES", patches),
    "pixab-3": ("pictures", "PICTURES", by_suite),
    "pixab-4": ("pictures", "PICTURES", by_suite),
    "pixab-2": (_ZEROS, "", dependence),
    "pixab-1": (_ZEROS, "", overlap),
    "pixab-5": ("pictures with boxes", "PICTURES", objects),
    "pixab-figure-12": (
        "a model that ends in a linear layer, or weights of torchvision's VGG-16; pictures in a folder for "
        "each class, such as the 253 brain MRI pictures",
        "BRAIN_MRI",
        brain_maps,
    ),
    **{f"pixab-{number}": (_PATCHES, "PICTURES", boxes) for number in (7, 8, 9, 10)},
}

TABLES: Mapping[str, Task] = MappingProxyType(
    {name: Task(table, *_MEASURES[name]) for name, table in PUBLISHED.items()}
)
"""The tables by name, in the order of the papers."""
