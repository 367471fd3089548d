"""Explanations of altered images, which some metrics compare a map with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from camrt.engine.explanation import Explanation
from camrt.errors import DegenerateMapWarning
from camrt.evaluation.metrics.composites import coherency
from camrt.evaluation.metrics.sensitivity import first_maps, largest_changes
from camrt.evaluation.suite.plan import COHERENT, MeasurementPlan
from camrt.evaluation.suite.prepared_sample import PreparedSample

__all__ = ["FurtherExplanations", "explain_further"]

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class FurtherExplanations:
    """What explaining altered images said of each method's maps.

    Attributes:
        masked: For each method the logits (n, classes) of the images multiplied by its maps.
        coherency: For each method (n,), NaN where it is undefined.
        sensitivity: The same.
        passes: What was run.
    """

    masked: Mapping[str, Array] = field(default_factory=dict)
    coherency: Mapping[str, Array] = field(default_factory=dict)
    sensitivity: Mapping[str, Array] = field(default_factory=dict)
    passes: int = 0


def explain_further(
    plan: MeasurementPlan, block: Sequence[PreparedSample], pixels: Array, found: Mapping[str, Explanation]
) -> FurtherExplanations:
    """Explains what metrics compare maps with, for the classes that the images are predicted as.

    Args:
        plan: What is measured.
        block: The images.
        pixels: (n, C, H, W), of the images.
        found: Their explanations, by method; each image's first target is its predicted class.
    """
    masked, coherent, sensitive, passes = {}, {}, {}, 0
    if plan.has_any_metric(*COHERENT):
        for name, explanation in found.items():
            again = explain_masked(plan, name, pixels, explanation)
            masked[name], coherent[name] = again.logits, coherency(explanation.maps[:, 0], first_maps(again))
            passes += again.passes.images
    if plan.has_any_metric("sensitivity"):
        moved = largest_changes(
            plan.engine,
            pixels,
            list(plan.methods.values()),
            list(found.values()),
            radius=plan.settings.sensitivity_radius,
            draws=plan.settings.sensitivity_draws,
            seeds=[plan.seed_of(item) for item in block],
        )
        sensitive = dict(zip(found, moved.values, strict=True))
        passes += moved.passes
    return FurtherExplanations(masked, coherent, sensitive, passes)


def explain_masked(
    plan: MeasurementPlan, name: str, pixels: Array, explanation: Explanation
) -> Explanation[Array]:
    """A method's maps of the images multiplied by its maps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateMapWarning)  # their figures are undefined instead
        return plan.engine.explain(
            pixels * explanation.maps[:, 0][:, None], plan.methods[name], targets=explanation.targets[:, 0]
        )
