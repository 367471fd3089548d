"""What is known of one method's values of one metric, while rows come some at a time, and its figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camrt.evaluation.metrics.box_accuracy import THRESHOLDS, accuracy_of_rates
from camrt.evaluation.suite.measurement import Measurements, TableRow
from camrt.evaluation.suite.metric_registry import METRICS
from camrt.evaluation.suite.moments import RunningMoments
from camrt.evaluation.suite.plan import MeasurementPlan

__all__ = ["Column", "ImageCounts", "MetricFigure", "describe_moments", "to_number"]

CURVES = ("deletion", "insertion", "roadmorf", "roadlerf")

MetricFigure = dict[str, Any]
"""A figure: its "value" or null, how many "counted", how many were "undefined", and what belongs to it."""


class Column:
    """What is known of a method's values of a metric."""

    def __init__(self, plan: MeasurementPlan, metric: str) -> None:
        self.plan = plan
        self.metric = metric
        self.rows = 0
        self.values = RunningMoments()
        self.shares_of_grid = RunningMoments()
        self.curves: RunningMoments | None = None
        self.right = RunningMoments((len(plan.settings.shares),))
        self.deltas = plan.deltas if metric == "maxboxaccv2" else (0.5,)
        self.hits = np.zeros((len(self.deltas), len(THRESHOLDS)), np.int64)
        self.boxed = 0

    def add(self, rows: Sequence[TableRow]) -> None:
        """Takes the rows that the metric is about."""
        metric = self.metric
        if metric == "removal":
            self.rows += len(rows)
            self.right.add([row["right_after_removal"] for row in rows if row.get("right_after_removal")])
            return
        if metric in ("maxboxacc", "maxboxaccv2"):
            column = "box_hits" if metric == "maxboxaccv2" else "largest_box_hits"
            for flags in [row[column] for row in rows if row.get(column)]:
                self.hits += unpack_bits(flags, self.hits.shape)
                self.boxed += 1
            return
        if METRICS[metric].of == "objects":  # an object may have neither boxes nor a mask
            rows = [row for row in rows if row.get(metric) is not None]
        self.rows += len(rows)
        scale = 100 if METRICS[metric].percent else 1
        self.values.add([to_number(row.get(metric)) * scale for row in rows])
        if metric == "compactness":
            defined = [row for row in rows if row.get(metric) is not None]
            self.shares_of_grid.add([row[metric] / math.prod(row["grid"]) for row in defined])
        curves = [row[f"{metric}_curve"] for row in rows if row.get(f"{metric}_curve")]
        if curves:
            self.curves = self.curves or RunningMoments((len(curves[0]),))
            self.curves.add(curves)

    def figure(self, chance: RunningMoments) -> MetricFigure | None:
        """The figure; None where nothing is to be said.

        Args:
            chance: How many images are still right when as many pixels are removed at random.
        """
        metric = self.metric
        if metric == "removal":
            return self._removal(chance)
        if metric in ("maxboxacc", "maxboxaccv2"):
            return self._boxes()
        if not self.rows and METRICS[metric].of != "objects":
            return None
        figure = describe_moments(self.values)
        if metric == "compactness":
            return figure | {"share": _optional(self.shares_of_grid.mean)}
        if metric in CURVES:
            return figure | {"curve": None if self.curves is None else self.curves.mean.tolist()}
        return add_deviation(figure) if metric == "mu" else figure

    def _removal(self, chance: RunningMoments) -> MetricFigure | None:
        """R_k for each share, counts summed before they are divided.

        The value takes all shares together, Σ_k A_k / Σ_k Ar_k: a mean of the ratios would be ruled by the
        large shares, at which next to nothing is right and an image more doubles the ratio.
        """
        if not self.rows or not chance.count[0]:
            return None
        counted = int(self.right.count[0])
        shares: list[dict[str, float | None]] = []
        left, left_by_chance = 0.0, 0.0
        for place, share in enumerate(self.plan.settings.shares):
            kept, by_chance = _optional(self.right.mean[place]), float(chance.mean[place])
            ratio = kept / by_chance if kept is not None and by_chance else None
            left, left_by_chance = left + (kept or 0.0), left_by_chance + by_chance
            shares.append({"share": share, "accuracy": kept, "random": by_chance, "ratio": ratio})
        return {
            "value": left / left_by_chance if counted and left_by_chance else None,
            "counted": counted,
            "undefined": self.rows - counted,
            "shares": shares,
        }

    def _boxes(self) -> MetricFigure:
        """The best threshold for the whole data set, for each overlap."""
        if not self.boxed:
            return {"value": None, "counted": 0, "undefined": 0}
        found = accuracy_of_rates(self.hits / self.boxed, self.deltas, self.boxed)
        by_delta = [
            {"overlap": delta, "value": 100 * float(value), "threshold": float(THRESHOLDS[at])}
            for delta, value, at in zip(self.deltas, found.by_delta, found.chosen, strict=True)
        ]
        return {"value": 100 * found.value, "counted": self.boxed, "undefined": 0, "overlaps": by_delta}


class ImageCounts:
    """How many images and objects were measured."""

    def __init__(self) -> None:
        self.images = 0
        self.images_with_objects = 0
        self.right = RunningMoments()
        self.shares = RunningMoments()

    def add(self, measured: Measurements) -> None:
        """Takes the rows of a block."""
        self.images += len(measured.images)
        self.right.add(
            [row["label"] == row["predicted"] for row in measured.images if row["label"] is not None]
        )
        self.images_with_objects += len({row["image"] for row in measured.objects})
        self.shares.add([row["share"] for row in measured.objects])

    def result(self) -> dict[str, Any]:
        """What `results.json` says of them."""
        accuracy, share = float(self.right.mean), float(self.shares.mean)
        return {
            "measured": self.images,
            "with_label": int(self.right.count),
            "accuracy": None if math.isnan(accuracy) else accuracy,
            "with_objects": self.images_with_objects,
            "objects": int(self.shares.count),
            "object_share": None if math.isnan(share) else share,
        }


def to_number(value: float | bool | None) -> float:
    """A value of a row; NaN where it is undefined."""
    return math.nan if value is None else float(value)


def describe_moments(
    moments: RunningMoments, place: tuple[int, ...] = (), undefined: int | None = None
) -> MetricFigure:
    """A mean, its standard error, and how many values it is of."""
    return {
        "value": _optional(moments.mean[place]),
        "error": _optional(moments.error[place]),
        "counted": int(moments.count[place]),
        "undefined": int(moments.undefined[place]) if undefined is None else undefined,
    }


def _optional(value: Any) -> float | None:
    number = float(value)
    return None if math.isnan(number) else number


def add_deviation(figure: MetricFigure) -> MetricFigure:
    """A mean with the standard deviation of its values, which μ's paper prints, beside the standard error."""
    error = figure["error"]
    return figure | {"deviation": None if error is None else error * math.sqrt(figure["counted"])}


def unpack_bits(flags: bytes, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Rows of bits, each row packed by itself."""
    rows = np.frombuffer(flags, np.uint8).reshape(shape[0], -1)
    return np.unpackbits(rows, axis=1, count=shape[1]).astype(np.bool_)
