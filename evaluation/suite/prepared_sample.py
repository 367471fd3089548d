"""One image made ready to be measured: the model's input, and its annotations on the input's grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from camrt.engine.images.preprocess import Preprocessing
from camrt.engine.images.read import read_image
from camrt.evaluation.box_masks import boxes_to_mask
from camrt.evaluation.datasets import Box, Mask, Sample, union_pixels
from camrt.evaluation.datasets.annotation_transforms import to_input_boxes, to_input_mask, to_wsol_boxes

__all__ = ["ClassAnnotation", "PreparedSample", "annotated_classes", "prepare_sample"]


@dataclass(frozen=True, eq=False)
class ClassAnnotation:
    """All objects of one class in one image, on the grid of the model's input.

    Attributes:
        label: The class.
        boxes: (m, 4) half-open (r0, c0, r1, c1).
        wsol_boxes: (m, 4) (x0, y0, x1, y1) as the WSOL benchmark takes them.
        mask: uint8 (H, W): 1 object, 0 background, 255 ignored; None without masks.
    """

    label: int
    boxes: NDArray[np.int64]
    wsol_boxes: NDArray[np.int64]
    mask: NDArray[np.uint8] | None

    def pixel_mask(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The objects' pixels (H, W): those of the mask where there is one, else those in boxes."""
        return boxes_to_mask(self.boxes, size) if self.mask is None else self.mask == 1


@dataclass(frozen=True, eq=False)
class PreparedSample:
    """An image as the model takes it.

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
    targets: tuple[ClassAnnotation, ...]
    problems: tuple[str, ...]


def annotated_classes(sample: Sample) -> tuple[int, ...]:
    """The classes an image is annotated with, its own among them, in rising order."""
    parts: tuple[Box | Mask, ...] = (*sample.boxes, *sample.masks)
    stated = {part.label if part.label is not None else sample.label for part in parts}
    return tuple(sorted({label for label in (*stated, sample.label) if label is not None}))


def prepare_sample(
    sample: Sample, preprocessing: Preprocessing, *, masks: bool, inclusive: bool = False
) -> PreparedSample:
    """Reads an image and places its annotations.

    Args:
        sample: The image.
        preprocessing: What makes the model's input of it.
        masks: Whether masks are wanted; they cost reading.
        inclusive: Whether the last pixels of its boxes belong to them, see `Dataset.inclusive_boxes`.

    Raises:
        ImageError: It cannot be read.
        DataError: A mask cannot be read any more.
    """
    image = read_image(sample.path)
    size = (image.height, image.width)
    pixels = preprocessing.array(preprocessing.view(image))
    problems = []
    targets = []
    parts: tuple[Box | Mask, ...] = (*sample.boxes, *sample.masks)
    if sample.label is None and any(part.label is None for part in parts):
        problems.append("boxes or masks of no class, in an image of no class: not measured")
    for label in annotated_classes(sample):
        own = [part for part in parts if (part.label if part.label is not None else sample.label) == label]
        if not own:
            continue
        regions = [part for part in own if isinstance(part, Mask)]
        edges = np.array(
            [(box.x0, box.y0, box.x1, box.y1) for box in own if not isinstance(box, Mask)], np.float64
        ).reshape(-1, 4)
        target = ClassAnnotation(
            label,
            to_input_boxes(edges + np.array([0, 0, inclusive, inclusive]), size, preprocessing),
            to_wsol_boxes(edges, size, preprocessing),
            to_input_mask(union_pixels(regions, size), size, preprocessing) if masks and regions else None,
        )
        if len(target.wsol_boxes) < len(edges):
            lost = len(edges) - len(target.wsol_boxes)
            problems.append(f"{lost} boxes of class {label} lie outside what the model sees")
        if target.mask is not None and not (target.mask == 1).any():
            problems.append(f"the mask of class {label} has no pixel in what the model sees")
        targets.append(target)
    return PreparedSample(sample.name, sample.label, pixels, tuple(targets), tuple(problems))
