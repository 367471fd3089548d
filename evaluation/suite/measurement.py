"""The metrics of some images: one trunk pass for all methods, one answer a question for all metrics."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camrt.engine.explanation import Explanation
from camrt.engine.fusion import layer_saliency
from camrt.engine.images.framing import Framing
from camrt.engine.methods import Method
from camrt.errors import DegenerateMapWarning
from camrt.evaluation.metrics.box_accuracy import overlaps
from camrt.evaluation.metrics.composites import adcc, arcc, mean_saliency
from camrt.evaluation.metrics.curves import area_under_curve
from camrt.evaluation.metrics.faithfulness import compactness, drops, increases
from camrt.evaluation.metrics.imputed_removal import RoadResult
from camrt.evaluation.metrics.square_removal import infidelity, square_sums
from camrt.evaluation.perturbation import PerturbationResult
from camrt.evaluation.suite.further_explanations import FurtherExplanations, explain_further
from camrt.evaluation.suite.map_queries import (
    ImageQueries,
    QueryIndices,
    add_image_queries,
    add_map_queries,
    make_queries,
    target_index,
)
from camrt.evaluation.suite.metric_registry import METRICS
from camrt.evaluation.suite.plan import MeasurementPlan
from camrt.evaluation.suite.prepared_sample import ClassAnnotation, PreparedSample
from camrt.kernels.saliency import MapFlag

__all__ = [
    "CENTRE_BASELINE",
    "Measurements",
    "centre_gaussian",
    "measure_block",
    "min_max_normalise",
]

Array = NDArray[Any]
TableRow = dict[str, Any]

CENTRE_BASELINE = "(centre)"
"""The name of the baseline: a Gaussian in the middle of every image, whatever it shows."""


@dataclass
class Measurements:
    """What was measured on some images.

    Attributes:
        images: A row an image.
        objects: A row an image and annotated class.
        maps: A row a map.
        passes: Runs of the model, an image each.
        problems: What was wrong with images.
    """

    images: list[TableRow] = field(default_factory=list)
    objects: list[TableRow] = field(default_factory=list)
    maps: list[TableRow] = field(default_factory=list)
    passes: int = 0
    problems: list[str] = field(default_factory=list)

    def extend(self, other: Measurements) -> None:
        """Takes what was measured on further images."""
        self.images += other.images
        self.objects += other.objects
        self.maps += other.maps
        self.passes += other.passes
        self.problems += other.problems


def measure_block(
    plan: MeasurementPlan, block: Sequence[PreparedSample], advance: Callable[[float], None] | None = None
) -> Measurements:
    """Measures every metric of every method on some images, at most as many as the engine's batch size.

    Args:
        plan: What to measure.
        block: The images.
        advance: Told from time to time which share of the block's altered images was run.
    """
    pixels = np.stack([item.pixels for item in block])
    known = [tuple(dict.fromkeys(_classes(plan, item))) for item in block]
    width = 1 + max(len(classes) for classes in known)

    def choose(logits: Array) -> Array:
        rows = []
        for classes, predicted in zip(known, logits.argmax(axis=1).tolist(), strict=True):
            own = dict.fromkeys((predicted, *classes))
            rows.append([*own, *[predicted] * (width - len(own))])
        return np.array(rows, np.int64)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateMapWarning)  # counted by their flags instead
        found = plan.engine.explain_all(pixels, list(plan.methods.values()), targets=choose)
    by_method = dict(zip(plan.methods, found, strict=True))
    first = found[0]
    further = explain_further(plan, block, pixels, by_method)
    altered = make_queries(plan, block, pixels, first)
    asked = {
        (name, i): add_map_queries(
            plan, altered, explanation, i, item, further.masked[name][i] if name in further.masked else None
        )
        for name, explanation in by_method.items()
        for i, item in enumerate(block)
    }
    common = [add_image_queries(plan, altered, i, item) for i, item in enumerate(block)]
    run = 0

    def told(count: int) -> None:
        nonlocal run
        run += count
        if advance is not None:
            advance(run / len(altered))

    answers = altered.run(plan.engine.predict, plan.engine.probabilities, plan.engine.batch_size, told)
    explained = sum(explanation.passes.images for explanation in found)
    measured = Measurements(passes=explained + further.passes + answers.passes)
    for i, item in enumerate(block):
        measured.images.append(_image_row(first, answers, i, item, common[i]))
        measured.objects += (
            [_object_row(item, target) for target in item.targets] if plan.needs_maps_of("objects") else []
        )
    for name, explanation in by_method.items():
        rows: list[tuple[TableRow, Array, ClassAnnotation | None]] = []
        for i, item in enumerate(block):
            rows += _map_rows(plan, name, explanation, answers, i, item, asked[name, i], common[i], further)
        _add_localisation(plan, rows)
        measured.maps += [row for row, _, _ in rows]
    if plan.needs_maps_of("objects"):
        centre = centre_gaussian((pixels.shape[2], pixels.shape[3]))
        rows = [
            (_blank(item.name, CENTRE_BASELINE, target.label), centre, target)
            for item in block
            for target in item.targets
        ]
        _add_localisation(plan, rows)
        measured.maps += [row for row, _, _ in rows]
    return measured


def _classes(plan: MeasurementPlan, item: PreparedSample) -> list[int]:
    """The classes beside the predicted one whose maps are needed."""
    classes = [item.label] if item.label is not None and plan.needs_maps_of("label") else []
    return classes + [target.label for target in item.targets if plan.needs_maps_of("objects")]


def _image_row(
    explanation: Explanation, answers: PerturbationResult, i: int, item: PreparedSample, asked: ImageQueries
) -> TableRow:
    predicted = int(explanation.targets[i, 0])
    return {
        "image": item.name,
        "label": item.label,
        "predicted": predicted,
        "probability": float(explanation.probabilities[i, predicted]),
        "right_after_random_removal": [
            bool(answers.predicted[place] == item.label) for place in asked.removal
        ],
    }


def _object_row(item: PreparedSample, target: ClassAnnotation) -> TableRow:
    height, width = item.pixels.shape[1:]
    return {
        "image": item.name,
        "class": target.label,
        "boxes": len(target.wsol_boxes),
        "share": float(target.pixel_mask((height, width)).mean()),
        "inside": None if target.mask is None else np.packbits(target.mask == 1).tobytes(),
        "ignored": None if target.mask is None else np.packbits(target.mask == 255).tobytes(),
    }


def _blank(image: str, method: str, label: int) -> TableRow:
    return {"image": image, "method": method, "class": label, "is_label": None, "is_predicted": None}


def _map_rows(
    plan: MeasurementPlan,
    name: str,
    explanation: Explanation,
    answers: PerturbationResult,
    i: int,
    item: PreparedSample,
    asked: QueryIndices,
    common: ImageQueries,
    further: FurtherExplanations,
) -> list[tuple[TableRow, Array, ClassAnnotation | None]]:
    """The rows of one image and method, with the map and the annotation each is about."""
    predicted = int(explanation.targets[i, 0])
    annotated = {target.label: target for target in item.targets} if plan.needs_maps_of("objects") else {}
    classes = dict.fromkeys(
        [
            *([predicted] if plan.needs_maps_of("predicted") else []),
            *([item.label] if plan.needs_maps_of("label") and item.label is not None else []),
            *annotated,
        ]
    )
    rows = []
    for label in classes:
        slot = target_index(explanation, i, label)
        flag = int(explanation.flags[i, slot])
        raw, saliency = explanation.raw[i, slot], explanation.maps[i, slot]
        row: TableRow = _blank(item.name, name, label) | {
            "is_label": label == item.label,
            "is_predicted": label == predicted,
            "probability": float(explanation.probabilities[i, label]),
            "flag": flag,
            "raw": np.ascontiguousarray(raw, np.float32).tobytes(),
            "grid": list(raw.shape),
        }
        defined = flag != MapFlag.NOT_FINITE
        if label == predicted and defined:
            row |= _faithfulness(plan, plan.methods[name], raw, row["probability"], answers, asked)
            row |= _values(plan, "predicted", saliency, plan.dead)
            if common.without:
                row["infidelity"] = _infidelity(saliency, row["probability"], answers, common)
            if name in further.sensitivity:
                row["sensitivity"] = _number(further.sensitivity[name][i])
            if name in further.coherency:
                row |= _composites(saliency, further.coherency[name][i], row)
        if label == item.label and defined:
            row |= _values(plan, "label", saliency, None)
        if label == item.label and defined and asked.removal:
            row["right_after_removal"] = [bool(answers.predicted[p] == label) for p in asked.removal]
        rows.append((row, saliency, annotated.get(label)))
    return rows


def _faithfulness(
    plan: MeasurementPlan,
    method: Method,
    raw: Array,
    probability: float,
    answers: PerturbationResult,
    asked: QueryIndices,
) -> TableRow:
    row: TableRow = {}
    if plan.has_any_metric("compactness"):
        cells, _ = layer_saliency(raw[None, None], method, Framing.whole(raw.shape), plan.engine.threads)
        row["compactness"] = float(compactness(cells[0])[0])
    chosen = answers.probabilities[:, 0]
    if asked.masked is not None:
        after = float(chosen[asked.masked])
        row |= {
            "probability_masked": after,
            "drop": _number(drops([probability], [after])[0]),
            "increase": _number(increases([probability], [after])[0]),
        }
    for curve in ("deletion", "insertion"):
        places = getattr(asked, curve)
        if places:
            values = chosen[places]
            row |= {curve: _number(area_under_curve(values)), f"{curve}_curve": values.tolist()}
    if asked.roadmorf:
        removed = RoadResult(chosen[None, asked.roadmorf], chosen[None, asked.roadlerf])
        row |= {"roadmorf_curve": removed.most[0].tolist(), "roadlerf_curve": removed.least[0].tolist()}
        values = {"roadmorf": removed.morf, "roadlerf": removed.lerf, "road": removed.combined}
        row |= {name: _number(value[0]) for name, value in values.items()}
    return row


def _infidelity(
    saliency: Array, probability: float, answers: PerturbationResult, asked: ImageQueries
) -> float | None:
    said = square_sums(saliency[None], np.array(asked.squares, np.int64))
    changes = probability - answers.probabilities[asked.without, 0]
    return _number(infidelity(said, changes[None])[0])


def _composites(saliency: Array, coherent: float, row: TableRow) -> TableRow:
    """Coherency, and the means that it is part of, as far as the row has the other parts."""
    parts = ([coherent], mean_saliency(saliency[None]))
    found = {"coherency": _number(coherent)}
    for name, mean, other in (("adcc", adcc, "drop"), ("arcc", arcc, "road")):
        if other in row:
            value = np.nan if row[other] is None else row[other]
            found[name] = _number(mean(*parts, [value])[0])
    return found


def _values(plan: MeasurementPlan, of: str, saliency: Array, pixels: NDArray[np.bool_] | None) -> TableRow:
    """The metrics that are measured on a map by itself, or on a map and some pixels."""
    row: TableRow = {}
    for name in plan.metrics:
        metric = METRICS[name]
        if metric.of == of and metric.measure is not None:
            value = metric.measure(saliency, pixels if metric.needs else None)
            row[name] = bool(value) if metric.values == "truth" else _number(value)
    return row


def _add_localisation(
    plan: MeasurementPlan, rows: Sequence[tuple[TableRow, Array, ClassAnnotation | None]]
) -> None:
    """Adds the localisation metrics (pointing game, energy, box hits) to the rows of maps."""
    boxed: list[tuple[TableRow, Array, NDArray[np.int64]]] = []
    for row, saliency, target in rows:
        if target is None:
            continue
        if target.mask is not None or len(target.boxes):
            row |= _values(plan, "objects", saliency, target.pixel_mask(plan.size))
        if plan.has_any_metric("maxboxacc", "maxboxaccv2") and len(target.wsol_boxes):
            boxed.append((row, min_max_normalise(saliency), target.wsol_boxes))
    if not boxed:
        return
    maps, drawn = np.stack([saliency for _, saliency, _ in boxed]), [boxes for _, _, boxes in boxed]
    if plan.has_any_metric("maxboxaccv2"):
        best = overlaps(maps, drawn, threads=plan.engine.threads)
        hits = np.stack([best >= delta for delta in plan.deltas], axis=1)
        for (row, _, _), own in zip(boxed, hits, strict=True):
            row["box_hits"] = np.packbits(own, axis=1).tobytes()
    if plan.has_any_metric("maxboxacc"):
        best = overlaps(maps, drawn, contours="largest", threads=plan.engine.threads)
        for (row, _, _), own in zip(boxed, best >= 0.5, strict=True):
            row["largest_box_hits"] = np.packbits(own).tobytes()


def min_max_normalise(saliency: Array) -> NDArray[np.float32]:
    """A map from its minimum to its maximum as 0 to 1, as WSOL takes every map; zeros if it is constant."""
    low, high = saliency.min(), saliency.max()
    if not high > low:
        return np.zeros(saliency.shape, np.float32)
    return np.asarray((saliency - low) / (high - low), np.float32).clip(0, 1)


def centre_gaussian(size: tuple[int, int]) -> NDArray[np.float32]:
    """A Gaussian in the middle (H, W), sigma a quarter of each side: a baseline."""
    rows, columns = ((np.arange(side) - (side - 1) / 2) / (side / 4) for side in size)
    return np.exp(-(rows[:, None] ** 2 + columns[None] ** 2) / 2).astype(np.float32)


def _number(value: Any) -> float | None:
    """A float, or None where it is undefined."""
    number = float(value)
    return number if np.isfinite(number) else None
