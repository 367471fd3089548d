"""From rows to the figures of a table: means with how many counted, and what is pooled over the data set."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camrt.engine.fusion import layer_saliency
from camrt.errors import InputError
from camrt.evaluation.metrics.box_accuracy import THRESHOLDS, accuracy_of_rates
from camrt.evaluation.metrics.pixel_precision import PixelCounts
from camrt.evaluation.suite.measurement import (
    CENTRE_BASELINE,
    Measurements,
    TableRow,
    centre_gaussian,
    min_max_normalise,
)
from camrt.evaluation.suite.metric_registry import METRICS
from camrt.evaluation.suite.plan import MeasurementPlan

__all__ = ["MetricFigure", "find_equal_methods", "is_clearly_behind", "rebuild_map", "summarise"]

COMPARISON_SIZE = (14, 14)
"""The grid on which maps of different methods are compared."""
SAME_TOLERANCE = 1e-4
"""Up to this maps differ by rounding."""

MetricFigure = dict[str, Any]
"""A figure: its "value" or null, how many "counted", how many were "undefined", and what belongs to it."""


def summarise(plan: MeasurementPlan, measured: Measurements) -> dict[str, dict[str, MetricFigure]]:
    """For each method the figure of each metric; the baseline's are under `CENTRE_BASELINE`."""
    by_method: dict[str, list[TableRow]] = {name: [] for name in plan.methods}
    for row in measured.maps:
        by_method.setdefault(row["method"], []).append(row)
    objects = {(row["image"], row["class"]): row for row in measured.objects}
    chance = [row["right_after_random_removal"] for row in measured.images]
    figures = {
        name: {
            metric: figure
            for metric in plan.metrics
            if (figure := _figure(plan, name, metric, rows, objects, chance)) is not None
        }
        for name, rows in by_method.items()
    }
    for metric in plan.metrics:
        _add_distances_to_best(plan, metric, figures, by_method)
    return figures


def _add_distances_to_best(
    plan: MeasurementPlan,
    metric: str,
    figures: Mapping[str, dict[str, MetricFigure]],
    by_method: Mapping[str, Sequence[TableRow]],
) -> None:
    """Enters how far each method is behind the best, map by map: both looked at the same images.

    A difference of less than two standard errors is one that other images may turn round.
    """
    if not METRICS[metric].values:
        return
    rivals = {
        name: figures[name][metric]
        for name in plan.methods
        if metric in figures[name] and figures[name][metric]["value"] is not None
    }
    if len(rivals) < 2:
        return
    side = 1 if METRICS[metric].better == "higher" else -1
    best = max(rivals, key=lambda name: side * rivals[name]["value"])
    values = {
        name: {
            (row["image"], row["class"]): float(row[metric])
            for row in by_method[name]
            if row.get(metric) is not None
        }
        for name in rivals
    }
    scale = 100 if METRICS[metric].percent else 1
    for name, figure in rivals.items():
        both = [place for place in values[best] if place in values[name]]
        gaps = [scale * side * (values[best][place] - values[name][place]) for place in both]
        figure["behind"] = {"best": best} | _mean(gaps)


def is_clearly_behind(figure: Mapping[str, Any]) -> bool:
    """Whether a method is behind the best by more than two standard errors of the paired difference."""
    behind = figure.get("behind")
    return behind is None or (behind["error"] is not None and behind["value"] > 2 * behind["error"])


def find_equal_methods(plan: MeasurementPlan, measured: Measurements) -> list[list[str]]:
    """Groups of methods whose maps were the same on all images, to within rounding.

    On a linear layer behind global pooling Grad-CAM, XGrad-CAM, HiResCAM and CAM are one formula
    (specification G5): what tables make of them then differs by rounding alone.
    """
    by_method: dict[str, list[NDArray[np.float32]]] = {name: [] for name in plan.methods}
    for row in measured.maps:
        if row["method"] in by_method:
            by_method[row["method"]].append(rebuild_map(row, plan, COMPARISON_SIZE))
    groups: list[list[str]] = []
    for name, maps in by_method.items():
        for group in groups:
            others = by_method[group[0]]
            if all(np.abs(a - b).max() < SAME_TOLERANCE for a, b in zip(maps, others, strict=True)):
                group.append(name)
                break
        else:
            groups.append([name])
    return [group for group in groups if len(group) > 1]


def _figure(
    plan: MeasurementPlan,
    name: str,
    metric: str,
    rows: Sequence[TableRow],
    objects: Mapping[tuple[str, int], TableRow],
    chance: Sequence[Sequence[bool] | None],
) -> MetricFigure | None:
    predicted = [row for row in rows if row["is_predicted"]]
    labelled = [row for row in rows if row["is_label"]]
    located = [row for row in rows if (row["image"], row["class"]) in objects]
    about = {"predicted": predicted, "label": labelled, "objects": located}[METRICS[metric].of]
    if metric == "removal":
        return _removal(plan, labelled, chance)
    if metric in ("maxboxacc", "maxboxaccv2"):
        return _boxes(plan, metric, located)
    if metric == "pxap":
        return _pxap(plan, name, located, objects)
    if METRICS[metric].of == "objects":  # an object may have neither boxes nor a mask
        about = [row for row in about if row.get(metric) is not None]
    elif not about:
        return None
    figure = _mean((row.get(metric) for row in about), 100 if METRICS[metric].percent else 1)
    if metric == "compactness":
        return figure | _grid_share(about)
    if metric in ("deletion", "insertion", "roadmorf", "roadlerf"):
        curves = [row[f"{metric}_curve"] for row in about if row.get(f"{metric}_curve")]
        return figure | {"curve": np.mean(curves, axis=0).tolist() if curves else None}
    return add_deviation(figure) if metric == "mu" else figure


def _mean(values: Iterable[float | bool | None], scale: float = 1.0) -> MetricFigure:
    """A mean, its standard error, and how many values it is of."""
    listed = list(values)
    defined = np.array([float(value) for value in listed if value is not None]) * scale
    spread = float(defined.std(ddof=1) / math.sqrt(len(defined))) if len(defined) > 1 else None
    return {
        "value": float(defined.mean()) if len(defined) else None,
        "error": spread,
        "counted": len(defined),
        "undefined": len(listed) - len(defined),
    }


def add_deviation(figure: MetricFigure) -> MetricFigure:
    """A mean with the standard deviation of its values, which μ's paper prints, beside the standard error."""
    error = figure["error"]
    return figure | {"deviation": None if error is None else error * math.sqrt(figure["counted"])}


def _grid_share(rows: Sequence[TableRow]) -> MetricFigure:
    """Compactness relative to the cells of each map's grid."""
    shares = [
        row["compactness"] / math.prod(row["grid"]) for row in rows if row.get("compactness") is not None
    ]
    return {"share": float(np.mean(shares)) if shares else None}


def _removal(
    plan: MeasurementPlan, rows: Sequence[TableRow], chance: Sequence[Sequence[bool] | None]
) -> MetricFigure | None:
    """R_k for each share, counts summed before they are divided.

    The value takes all shares together, Σ_k A_k / Σ_k Ar_k: a mean of the ratios would be ruled by the large
    shares, at which next to nothing is right and an image more doubles the ratio.
    """
    right = [row["right_after_removal"] for row in rows if row.get("right_after_removal")]
    random = [flags for flags in chance if flags]
    if not rows or not random:
        return None
    shares: list[dict[str, float | None]] = []
    left, left_by_chance = 0.0, 0.0
    for place, share in enumerate(plan.settings.shares):
        kept = float(np.mean([flags[place] for flags in right])) if right else None
        by_chance = float(np.mean([flags[place] for flags in random]))
        ratio = kept / by_chance if kept is not None and by_chance else None
        left, left_by_chance = left + (kept or 0.0), left_by_chance + by_chance
        shares.append({"share": share, "accuracy": kept, "random": by_chance, "ratio": ratio})
    return {
        "value": left / left_by_chance if right and left_by_chance else None,
        "counted": len(right),
        "undefined": len(rows) - len(right),
        "shares": shares,
    }


def _boxes(plan: MeasurementPlan, metric: str, rows: Sequence[TableRow]) -> MetricFigure:
    """The best threshold for the whole data set, for each overlap."""
    column = "box_hits" if metric == "maxboxaccv2" else "largest_box_hits"
    deltas = plan.deltas if metric == "maxboxaccv2" else (0.5,)
    packed = [row[column] for row in rows if row.get(column)]
    if not packed:
        return {"value": None, "counted": 0, "undefined": 0}
    total = np.zeros((len(deltas), len(THRESHOLDS)), np.int64)
    for flags in packed:
        total += unpack_bits(flags, (len(deltas), len(THRESHOLDS)))
    found = accuracy_of_rates(total / len(packed), deltas, len(packed))
    by_delta = [
        {"overlap": delta, "value": 100 * float(value), "threshold": float(THRESHOLDS[at])}
        for delta, value, at in zip(deltas, found.by_delta, found.chosen, strict=True)
    ]
    return {
        "value": 100 * found.value,
        "counted": len(packed),
        "undefined": 0,
        "overlaps": by_delta,
    }


def unpack_bits(flags: bytes, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Rows of bits, each row packed by itself."""
    rows = np.frombuffer(flags, np.uint8).reshape(shape[0], -1)
    return np.unpackbits(rows, axis=1, count=shape[1]).astype(np.bool_)


def _pxap(
    plan: MeasurementPlan, name: str, rows: Sequence[TableRow], objects: Mapping[tuple[str, int], TableRow]
) -> MetricFigure:
    """Pooled over all pixels; maps are upsampled again from their stored small form, one at a time."""
    counts, used, side = PixelCounts(plan.settings.pxap), 0, plan.size
    for row in rows:
        annotation = objects[row["image"], row["class"]]
        if annotation["inside"] is None:
            continue
        mask = np.zeros(side, np.uint8)
        for column, mark in (("ignored", 255), ("inside", 1)):
            bits = np.unpackbits(np.frombuffer(annotation[column], np.uint8), count=mask.size)
            mask[bits.reshape(side).astype(np.bool_)] = mark
        saliency = centre_gaussian(side) if name == CENTRE_BASELINE else rebuild_map(row, plan, side)
        counts.add(min_max_normalise(saliency)[None], mask[None])
        used += 1
    try:
        found = counts.result() if used else None
    except InputError:  # no mask has a pixel left on the model's grid
        found = None
    if found is None:
        return {"value": None, "counted": 0, "undefined": used}
    return {
        "value": found.value,
        "counted": used,
        "undefined": 0,
        "positive_share": found.positives / (found.positives + found.negatives),
        "definition": found.definition,
    }


def rebuild_map(row: TableRow, plan: MeasurementPlan, size: tuple[int, int]) -> NDArray[np.float32]:
    """Rebuilds a row's saliency map (H, W), on the model's input, from the raw map stored in the row."""
    raw = np.frombuffer(row["raw"], np.float32).reshape(1, 1, *row["grid"])
    method = plan.methods[row["method"]]
    framing = plan.engine.framing(plan.size, method).resized_to(size)
    maps, _ = layer_saliency(raw, method, framing, plan.engine.threads)
    return np.asarray(maps[0, 0], np.float32)
