"""The tables by name: what each needs, and the function that measures it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from camrt.evaluation.papers.calm import measure_cues, measure_localisation, measure_removal
from camrt.evaluation.papers.calm_accuracy import measure_accuracy
from camrt.evaluation.papers.calm_supersets import measure_supersets
from camrt.evaluation.papers.pixab import (
    measure_dependence,
    measure_objects,
    measure_overlap,
    measure_patches,
    measure_with_suite,
)
from camrt.evaluation.papers.pixab_boxes import measure_boxes
from camrt.evaluation.papers.pixab_brain import measure_brain_maps
from camrt.evaluation.papers.published import PUBLISHED
from camrt.evaluation.papers.published_table import PublishedTable
from camrt.evaluation.papers.reproduced_table import ReproducedTable
from camrt.evaluation.papers.run_state import ReproductionRun
from camrt.evaluation.papers.walls import measure_dead_zone

__all__ = ["TABLE_TASKS", "TableTask"]


@dataclass(frozen=True)
class TableTask:
    """How a table is measured.

    Attributes:
        published: The table.
        needs: What the model and the images must have, in a few words.
        data: What its images are called in a command; empty where it needs none.
        measure: Measures it.
    """

    published: PublishedTable
    needs: str
    data: str
    measure: Callable[[ReproductionRun, PublishedTable], ReproducedTable]

    @property
    def command(self) -> str:
        """How it is measured on the command line."""
        return f"camrt reproduce {self.published.name} --model MODEL.onnx" + (
            f" --data {self.data}" if self.data else ""
        )


_PATCHES = "a model with gradients and at least 10 classes; images for DAP1"
_ZEROS = "a model with gradients and at least 10 classes; no images"
_OBJECTS = (
    "boxes for MaxBoxAccV2, masks for PxAP; a CALM model for the rows of CALM, a linear layer after pooling "
    "for those of CAM"
)
_MEASUREMENTS: dict[str, tuple[str, str, Callable[[ReproductionRun, PublishedTable], ReproducedTable]]] = {
    "calm-1": (
        "the folder of CUB-200-2011 with attributes, parts and segmentations; a model of its classes",
        "CUB_200_2011",
        measure_cues,
    ),
    "calm-2": ("images with classes", "IMAGES", measure_accuracy),
    "calm-3": (_OBJECTS, "IMAGES", measure_localisation),
    "calm-4": ("nothing: it is a list of classes, and any model will do", "", measure_supersets),
    "calm-5": (_OBJECTS, "IMAGES", measure_localisation),
    "calm-figure-5": ("images with classes", "IMAGES", measure_removal),
    "walls": (
        "a model that cannot see part of its images, as camrt train masked-vgg trains; a folder for each "
        "class, to stack images of",
        "IMAGES",
        measure_dead_zone,
    ),
    "pixab-6": (_PATCHES, "IMAGES", measure_patches),
    "pixab-3": ("images", "IMAGES", measure_with_suite),
    "pixab-4": ("images", "IMAGES", measure_with_suite),
    "pixab-2": (_ZEROS, "", measure_dependence),
    "pixab-1": (_ZEROS, "", measure_overlap),
    "pixab-5": ("images with boxes", "IMAGES", measure_objects),
    "pixab-figure-12": (
        "a model that ends in a linear layer, or weights of torchvision's VGG-16; images in a folder for "
        "each class, such as the 253 brain MRI images",
        "BRAIN_MRI",
        measure_brain_maps,
    ),
    **{f"pixab-{number}": (_PATCHES, "IMAGES", measure_boxes) for number in (7, 8, 9, 10)},
}

TABLE_TASKS: Mapping[str, TableTask] = MappingProxyType(
    {name: TableTask(table, *_MEASUREMENTS[name]) for name, table in PUBLISHED.items()}
)
"""The tables by name, in the order of the papers."""
