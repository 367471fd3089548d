"""From rows to the figures of a table: means with how many counted, and what is pooled over the data set.

Rows are taken a block of images at a time and not kept, so that memory does not grow with their number;
blocks are taken in their order, so that the same rows give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camrt.engine.fusion import layer_saliency
from camrt.errors import InputError
from camrt.evaluation.metrics.pixel_precision import PixelCounts
from camrt.evaluation.suite.column import Column, ImageCounts, MetricFigure, describe_moments, to_number
from camrt.evaluation.suite.measurement import (
    CENTRE_BASELINE,
    Measurements,
    TableRow,
    centre_gaussian,
    min_max_normalise,
)
from camrt.evaluation.suite.metric_registry import METRICS
from camrt.evaluation.suite.moments import RunningMoments
from camrt.evaluation.suite.plan import MeasurementPlan

__all__ = ["Summary", "is_clearly_behind", "rebuild_map", "summarise"]

COMPARISON_SIZE = (14, 14)
"""The grid on which maps of different methods are compared."""
SAME_TOLERANCE = 1e-4
"""Up to this maps differ by rounding."""


def summarise(plan: MeasurementPlan, blocks: Iterable[Measurements]) -> Summary:
    """Takes the rows of blocks of images, in their order.

    Args:
        plan: What was measured.
        blocks: Can be gone through again: the exact PxAP sorts all pixels of a method, and takes one method
            at a time.
    """
    found = Summary(plan)
    for measured in blocks:
        found.add(measured)
    if "pxap" in plan.metrics:
        for name in found.methods:
            found.pxap[name] = measure_pxap(plan, name, blocks)
    return found


class Summary:
    """The figures of rows that are taken a block of images at a time.

    Attributes:
        methods: Names, in the order of the tables; the baseline behind them if it has rows.
        pxap: The figure of each method.
        disagreement: For each image 1 − the mean cosine between the maps of different methods.
        passes: Runs of the model, an image each.
        problems: What was wrong with images.
    """

    def __init__(self, plan: MeasurementPlan) -> None:
        self.plan = plan
        self.methods = list(plan.methods)
        self.pxap: dict[str, MetricFigure] = {}
        self.disagreement: dict[str, float] = {}
        self.passes = 0
        self.problems: list[str] = []
        self._images = ImageCounts()
        self._columns: dict[tuple[str, str], Column] = {}
        count = len(plan.methods)
        self._gaps = {
            name: RunningMoments((count, count))
            for name in plan.metrics
            if METRICS[name].values and count > 1
        }
        self._apart = np.zeros((count, count))
        self._chance = RunningMoments((len(plan.settings.shares),))

    def add(self, measured: Measurements) -> None:
        """Takes the rows of a block."""
        by_method: dict[str, list[TableRow]] = {name: [] for name in self.plan.methods}
        for row in measured.maps:
            by_method.setdefault(row["method"], []).append(row)
        self.methods += [name for name in by_method if name not in self.methods]
        objects = {(row["image"], row["class"]) for row in measured.objects}
        chance = [row["right_after_random_removal"] for row in measured.images]
        if any(chance):
            self._chance.add([flags for flags in chance if flags])
        for name, rows in by_method.items():
            about = {
                "predicted": [row for row in rows if row["is_predicted"]],
                "label": [row for row in rows if row["is_label"]],
                "objects": [row for row in rows if (row["image"], row["class"]) in objects],
            }
            for metric in self.plan.metrics:
                place = name, metric
                if place not in self._columns:
                    self._columns[place] = Column(self.plan, metric)
                self._columns[place].add(about[METRICS[metric].of])
        for metric, gaps in self._gaps.items():
            gaps.add(find_gaps(metric, [by_method[name] for name in self.plan.methods]))
        self._compare([by_method[name] for name in self.plan.methods])
        self._images.add(measured)
        self.passes += measured.passes
        self.problems += measured.problems

    def _compare(self, rows: Sequence[Sequence[TableRow]]) -> None:
        """Takes how far the maps of different methods are apart."""
        places = {(row["image"], row["class"]): row["is_predicted"] for own in rows for row in own}
        shown: dict[str, tuple[str, int]] = {}
        for (image, label), is_predicted in places.items():
            if image not in shown or is_predicted:
                shown[image] = (image, label)
        if len(rows) < 2:
            self.disagreement |= dict.fromkeys(shown, 0.0)
            return
        own = [{(row["image"], row["class"]): row for row in found} for found in rows]
        for place in places:
            maps = np.stack([rebuild_map(found[place], self.plan, COMPARISON_SIZE).ravel() for found in own])
            self._apart = np.maximum(self._apart, np.abs(maps[:, None] - maps[None]).max(axis=2))
            if shown[place[0]] == place:
                self.disagreement[place[0]] = find_disagreement(maps.astype(np.float64))

    @property
    def images(self) -> int:
        """How many images were measured."""
        return self._images.images

    def count_images(self, found: int, drawn: int) -> dict[str, Any]:
        """How many images there are, how many were drawn, and how many of them counted."""
        return {"found": found, "drawn": drawn, **self._images.result()}

    def find_equal_methods(self) -> list[list[str]]:
        """Groups of methods whose maps were the same on all images, to within rounding.

        On a linear layer behind global pooling Grad-CAM, XGrad-CAM, HiResCAM and CAM are one formula
        (specification G5): what tables make of them then differs by rounding alone.
        """
        groups: list[list[int]] = []
        for place in range(len(self.plan.methods)):
            for group in groups:
                if self._apart[group[0], place] < SAME_TOLERANCE:
                    group.append(place)
                    break
            else:
                groups.append([place])
        names = list(self.plan.methods)
        return [[names[place] for place in group] for group in groups if len(group) > 1]

    def figures(self) -> dict[str, dict[str, MetricFigure]]:
        """For each method the figure of each metric; the baseline's are under `CENTRE_BASELINE`."""
        figures: dict[str, dict[str, MetricFigure]] = {name: {} for name in self.methods}
        for name in self.methods:
            for metric in self.plan.metrics:
                column = self._columns.get((name, metric))
                if metric == "pxap":
                    figures[name][metric] = self.pxap[name]
                elif column is not None and (figure := column.figure(self._chance)) is not None:
                    figures[name][metric] = figure
        for metric in self.plan.metrics:
            self._add_distances_to_best(metric, figures)
        return figures

    def _add_distances_to_best(self, metric: str, figures: Mapping[str, dict[str, MetricFigure]]) -> None:
        """Enters how far each method is behind the best, map by map: both looked at the same images.

        A difference of less than two standard errors is one that other images may turn round.
        """
        names = list(self.plan.methods)
        rivals = {
            name: figures[name][metric]
            for name in names
            if metric in self._gaps and metric in figures[name] and figures[name][metric]["value"] is not None
        }
        if len(rivals) < 2:
            return
        side = 1 if METRICS[metric].better == "higher" else -1
        best = max(rivals, key=lambda name: side * rivals[name]["value"])
        first = names.index(best)
        for name, figure in rivals.items():
            place = first, names.index(name)
            figure["behind"] = {"best": best} | describe_moments(self._gaps[metric], place, undefined=0)


def find_gaps(metric: str, rows: Sequence[Sequence[TableRow]]) -> NDArray[np.float64]:
    """How far methods are behind one another, map by map: (maps, methods, methods), row i less row j.

    NaN where one of the two has no value.
    """
    side = 1 if METRICS[metric].better == "higher" else -1
    scale = 100 if METRICS[metric].percent else 1
    values = [
        {(row["image"], row["class"]): to_number(row.get(metric)) * scale * side for row in own}
        for own in rows
    ]
    places = dict.fromkeys(place for own in values for place in own)
    table = np.array([[own.get(place, np.nan) for own in values] for place in places], np.float64)
    table = table.reshape(-1, len(rows))
    return np.asarray(table[:, :, None] - table[:, None, :])


def is_clearly_behind(figure: Mapping[str, Any]) -> bool:
    """Whether a method is behind the best by more than two standard errors of the paired difference."""
    behind = figure.get("behind")
    return behind is None or (behind["error"] is not None and behind["value"] > 2 * behind["error"])


def find_disagreement(maps: NDArray[np.float64]) -> float:
    """1 − the mean cosine between maps (methods, cells)."""
    norms = np.linalg.norm(maps, axis=1, keepdims=True)
    flat = maps / np.where(norms > 0, norms, 1)
    others = (flat @ flat.T)[~np.eye(len(flat), dtype=np.bool_)]
    return float(1 - others.mean()) if others.size else 0.0


def measure_pxap(plan: MeasurementPlan, name: str, blocks: Iterable[Measurements]) -> MetricFigure:
    """Pooled over all pixels; maps are upsampled again from their stored small form, one at a time."""
    counts, used, side = PixelCounts(plan.settings.pxap), 0, plan.size
    for measured in blocks:
        objects = {(row["image"], row["class"]): row for row in measured.objects}
        for row in measured.maps:
            annotation = objects.get((row["image"], row["class"]))
            if row["method"] != name or annotation is None or annotation["inside"] is None:
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
