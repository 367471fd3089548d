"""What is measured on every image of an evaluation."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camrt.engine.engine import Engine
from camrt.engine.methods import Method
from camrt.evaluation.suite.metric_registry import METRICS
from camrt.evaluation.suite.prepared_sample import PreparedSample
from camrt.evaluation.suite.settings import Settings

__all__ = ["COHERENT", "MeasurementPlan", "count_further_explanations"]

Array = NDArray[Any]

COHERENT = ("coherency", "adcc", "arcc")
"""Coherency, and the metrics that it is part of."""


@dataclass(frozen=True, eq=False)
class MeasurementPlan:
    """What is measured on every image.

    Attributes:
        engine: The model.
        methods: By name.
        metrics: Names, see `camrt.evaluation.suite.METRICS`.
        settings: The rest.
        size: (H, W) of the model's input.
        empty: (classes,) logits of an image of zeros.
        dead: (H, W) the pixels that cannot influence the model, for μ.
        deltas: Overlaps of MaxBoxAccV2.
    """

    engine: Engine
    methods: Mapping[str, Method]
    metrics: tuple[str, ...]
    settings: Settings
    size: tuple[int, int]
    empty: Array | None = None
    dead: NDArray[np.bool_] | None = None
    deltas: tuple[float, ...] = (0.3, 0.5, 0.7)

    def has_any_metric(self, *names: str) -> bool:
        """Whether at least one of the named metrics is measured."""
        return any(name in self.metrics for name in names)

    def needs_maps_of(self, which: str) -> bool:
        """Whether a metric needs maps of this kind of class: predicted, label or objects, see `Metric`."""
        return any(METRICS[name].of == which for name in self.metrics)

    @property
    def further_explanations(self) -> int:
        """How many times each method explains each image beside the first."""
        return count_further_explanations(self.metrics, self.settings)

    def seed_of(self, item: PreparedSample) -> tuple[int, int]:
        """What is drawn for an image depends on this, and on no other image."""
        return self.settings.seed, zlib.crc32(item.name.encode())


def count_further_explanations(metrics: Sequence[str], settings: Settings) -> int:
    """How many times each method explains each image beside the first.

    Coherency, and what is made of it, has the image explained once more, multiplied by its map; max-
    sensitivity each of its noisy copies.

    Args:
        metrics: Names, or "all" alone.
        settings: How they are measured.
    """
    if list(metrics) == ["all"]:
        metrics = [name for name, metric in METRICS.items() if not metric.only_named]
    coherent = any(name in metrics for name in COHERENT)
    return coherent + ("sensitivity" in metrics) * settings.sensitivity_draws
