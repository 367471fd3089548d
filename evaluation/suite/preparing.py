"""One picture made ready to be measured: the model's input, and its annotations on the input's grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from camrt.engine.pictures import read_picture
from camrt.engine.preprocessing import Preprocessing
from camrt.evaluation.datasets import Box, Mask, Sample, union_pixels
from camrt.evaluation.localisation import inside_boxes
from camrt.evaluation.placing import benchmark_boxes, mask_on_grid, pixel_boxes

__all__ = ["Prepared", "Target", "known_classes", "prepare_sample"]


@dataclass(frozen=True, eq=False)
class Target:
    """All objects of one class in one picture, on the grid of the model's input.

    Attributes:
        label: The class.
        boxes: (m, 4) half-open (r0, c0, r1, c1).
        drawn: (m, 4) (x0, y0, x1, y1) as the WSOL benchmark takes them.
        mask: uint8 (H, W): 1 object, 0 background, 255 ignored; None without masks.
    """

    label: int
    boxes: NDArray[np.int64]
    drawn: NDArray[np.int64]
    mask: NDArray[np.uint8] | None

    def area(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The objects' pixels (H, W): those of the mask where there is one, else those in boxes."""
        return inside_boxes(self.boxes, size) if self.mask is None else self.mask == 1


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture as the model takes it.

    Attributes:
        name: The sample's.
        label: Its true class, if known.
        pixels: (C, H, W) float32.
        targets: Its annotated classes, in rising order.
        problems: What became of annotations on the way, in sentences.
    """

    name: str
    label: int | None
    pixels: NDArray[np.float32]
    targets: tuple[Target, ...]
    problems: tuple[str, ...]


def known_classes(sample: Sample) -> tuple[int, ...]:
    """The classes a picture is annotated with, its own among them, in rising order."""
    parts: tuple[Box | Mask, ...] = (*sample.boxes, *sample.masks)
    stated = {part.label if part.label is not None else sample.label for part in parts}
    return tuple(sorted({label for label in (*stated, sample.label) if label is not None}))


def prepare_sample(
    sample: Sample, preprocessing: Preprocessing, *, masks: bool, inclusive: bool = False
) -> Prepared:
    """Reads a picture and places its annotations.

    Args:
        sample: The picture.
        preprocessing: What makes the model's input of it.
        masks: Whether masks are wanted; they cost reading.
        inclusive: Whether the last pixels of its boxes belong to them, see `Dataset.inclusive_boxes`.

    Raises:
        PictureError: It cannot be read.
        DataError: A mask cannot be read any more.
    """
    picture = read_picture(sample.path)
    size = (picture.height, picture.width)
    pixels = preprocessing.array(preprocessing.view(picture))
    problems = []
    targets = []
    parts: tuple[Box | Mask, ...] = (*sample.boxes, *sample.masks)
    if sample.label is None and any(part.label is None for part in parts):
        problems.append("boxes or masks of no class, in a picture of no class: not measured")
    for label in known_classes(sample):
        own = [part for part in parts if (part.label if part.label is not None else sample.label) == label]
        if not own:
            continue
        regions = [part for part in own if isinstance(part, Mask)]
        edges = np.array(
            [(box.x0, box.y0, box.x1, box.y1) for box in own if not isinstance(box, Mask)], np.float64
        ).reshape(-1, 4)
        target = Target(
            label,
            pixel_boxes(edges + np.array([0, 0, inclusive, inclusive]), size, preprocessing),
            benchmark_boxes(edges, size, preprocessing),
            mask_on_grid(union_pixels(regions, size), size, preprocessing) if masks and regions else None,
        )
        if len(target.drawn) < len(edges):
            lost = len(edges) - len(target.drawn)
            problems.append(f"{lost} boxes of class {label} lie outside what the model sees")
        if target.mask is not None and not (target.mask == 1).any():
            problems.append(f"the mask of class {label} has no pixel in what the model sees")
        targets.append(target)
    return Prepared(sample.name, sample.label, pixels, tuple(targets), tuple(problems))
