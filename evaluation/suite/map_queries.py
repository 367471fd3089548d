"""What the metrics ask of the model: altered images, for each map and for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camrt.engine.arrays import to_numpy
from camrt.engine.explanation import Explanation
from camrt.evaluation.metrics.curves import insertion_baseline, ranks_of, step_pixel_counts
from camrt.evaluation.metrics.imputed_removal import NOISE_SHEET, add_road_queries, imputation_noise
from camrt.evaluation.metrics.removal import blur_images, scale_blur_kernel
from camrt.evaluation.metrics.square_removal import draw_squares
from camrt.evaluation.perturbation import IMAGE, ZERO, PerturbationQueries
from camrt.evaluation.suite.plan import MeasurementPlan
from camrt.evaluation.suite.prepared_sample import PreparedSample

__all__ = [
    "ImageQueries",
    "QueryIndices",
    "add_image_queries",
    "add_map_queries",
    "make_queries",
    "target_index",
]

Array = NDArray[Any]

ERASED, BLURRED = "erased", "blurred"


@dataclass(frozen=True)
class QueryIndices:
    """Indices, in the results, of the queries made for one map."""

    masked: int | None = None
    deletion: list[int] = field(default_factory=list)
    insertion: list[int] = field(default_factory=list)
    removal: list[int] = field(default_factory=list)
    roadmorf: list[int] = field(default_factory=list)
    roadlerf: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class ImageQueries:
    """Indices, in the results, of the queries made for an image: random pixels erased, and squares zero."""

    removal: list[int] = field(default_factory=list)
    squares: list[list[int]] = field(default_factory=list)
    without: list[int] = field(default_factory=list)


def make_queries(
    plan: MeasurementPlan, block: Sequence[PreparedSample], pixels: Array, first: Explanation
) -> PerturbationQueries:
    """A place to ask about some images, with the sheets that the metrics put pixels of.

    Args:
        plan: What is measured.
        block: The images.
        pixels: (n, C, H, W), of the images.
        first: An explanation of them.
    """
    placed = plan.engine.device.put(pixels)  # altered images are made where the model runs
    sheets = {}
    if plan.has_any_metric("insertion"):
        sheets[BLURRED] = insertion_baseline(placed)
    if plan.has_any_metric("removal") and plan.settings.base == "blur":
        sheets[ERASED] = blur_images(placed, *scale_blur_kernel(pixels.shape[2]))
    if asks_road(plan):
        noise = [imputation_noise(pixels.shape[1:], plan.seed_of(item)) for item in block]
        sheets[NOISE_SHEET] = plan.engine.device.put(np.stack(noise))
    return PerturbationQueries(placed, first.logits, first.targets, sheets, plan.empty)


def add_map_queries(
    plan: MeasurementPlan,
    altered: PerturbationQueries,
    explanation: Explanation,
    i: int,
    item: PreparedSample,
    masked: Array | None,
) -> QueryIndices:
    """Asks what the metrics want to know about an image's map.

    Args:
        plan: What is measured.
        altered: Where to ask.
        explanation: Of the images by a method.
        i: Which image.
        item: It.
        masked: (classes,) logits of the image multiplied by its map of the predicted class, where they are
            known.
    """
    asked = (
        QueryIndices(altered.add_masked(i, explanation.maps[i, 0], masked))
        if plan.has_any_metric("drop", "increase", "adcc")
        else QueryIndices()
    )
    put = plan.engine.device.put
    ranks_at = cache(lambda slot: to_numpy(ranks_of(put(explanation.maps[i, slot][None])))[0])  # often twice
    if plan.has_any_metric("deletion", "insertion"):
        ranks = ranks_at(0)
        counts = step_pixel_counts(altered.pixels, plan.settings.step or explanation.maps.shape[-1]).tolist()
        if plan.has_any_metric("deletion"):
            asked.deletion.extend(altered.add_ranked(i, ranks, counts, ZERO, IMAGE))
        if plan.has_any_metric("insertion"):
            asked.insertion.extend(altered.add_ranked(i, ranks, counts, IMAGE, BLURRED))
    if asks_road(plan):
        most, least = add_road_queries(altered, i, ranks_at(0), plan.settings.road)
        asked.roadmorf.extend(most)
        asked.roadlerf.extend(least)
    if plan.has_any_metric("removal") and item.label is not None:
        ranks = ranks_at(target_index(explanation, i, item.label))
        asked.removal.extend(add_removal_queries(plan, altered, i, ranks))
    return asked


def add_image_queries(
    plan: MeasurementPlan, altered: PerturbationQueries, i: int, item: PreparedSample
) -> ImageQueries:
    """Asks what the metrics want to know about an image, whatever its maps."""
    asked = ImageQueries()
    if plan.has_any_metric("removal") and item.label is not None:
        order = np.random.default_rng(plan.seed_of(item)).permutation(altered.pixels)
        asked.removal.extend(add_removal_queries(plan, altered, i, order.astype(np.int64)))
    if plan.has_any_metric("infidelity"):
        squares = draw_squares(
            plan.size, plan.settings.infidelity_squares, np.random.default_rng(plan.seed_of(item))
        )
        asked.squares.extend(squares.tolist())
        asked.without.extend(altered.add_without_box(i, square) for square in asked.squares)
    return asked


def add_removal_queries(
    plan: MeasurementPlan, altered: PerturbationQueries, i: int, ranks: NDArray[np.int64]
) -> list[int]:
    counts = [int(share * altered.pixels) for share in plan.settings.shares]
    return altered.add_ranked(i, ranks, counts, ERASED if plan.settings.base == "blur" else ZERO, IMAGE)


def asks_road(plan: MeasurementPlan) -> bool:
    return plan.has_any_metric("roadmorf", "roadlerf", "road", "arcc")


def target_index(explanation: Explanation, i: int, label: int) -> int:
    """The place of a class among an image's targets."""
    return int(np.flatnonzero(explanation.targets[i] == label)[0])
