"""Explanations of altered images, which some metrics compare a map with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from camrt.engine.explanation import Explanation
from camrt.errors import DegenerateMapWarning
from camrt.evaluation.metrics.composites import coherency
from camrt.evaluation.metrics.sensitivity import first_maps
from camrt.evaluation.suite.plan import MeasurementPlan

__all__ = ["FurtherExplanations", "explain_further"]

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class FurtherExplanations:
    """What explaining altered images said of each method's maps.

    Attributes:
        masked: For each method the logits (n, classes) of the images multiplied by its maps.
        coherency: For each method (n,), NaN where it is undefined.
        passes: What was run.
    """

    masked: Mapping[str, Array] = field(default_factory=dict)
    coherency: Mapping[str, Array] = field(default_factory=dict)
    passes: int = 0


def explain_further(
    plan: MeasurementPlan, pixels: Array, found: Mapping[str, Explanation]
) -> FurtherExplanations:
    """Explains the images that each method's maps of the predicted class leave, for that class.

    Args:
        plan: What is measured.
        pixels: (n, C, H, W), of the images.
        found: Their explanations, by method; each image's first target is its predicted class.
    """
    if not plan.has_any_metric("coherency", "adcc", "arcc"):
        return FurtherExplanations()
    masked, coherent, passes = {}, {}, 0
    for name, explanation in found.items():
        maps = explanation.maps[:, 0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DegenerateMapWarning)  # their figures are undefined instead
            again = plan.engine.explain(
                pixels * maps[:, None], plan.methods[name], targets=explanation.targets[:, 0]
            )
        masked[name], coherent[name] = again.logits, coherency(maps, first_maps(again))
        passes += again.passes.images
    return FurtherExplanations(masked, coherent, passes)
