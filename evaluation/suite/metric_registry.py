"""The metrics that an evaluation can measure, by name: one entry each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from camrt.errors import InputError
from camrt.evaluation.metrics.composites import mean_saliency
from camrt.evaluation.metrics.concentration import complexity, sparseness
from camrt.evaluation.metrics.dead_zone_share import dead_share
from camrt.evaluation.metrics.localisation import is_peak_inside, share_inside

__all__ = ["METRICS", "Metric", "parse_metrics", "title_of_left_out"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.

    A metric of a map alone, or of a map and some pixels, has a `measure`, and is measured, stored and
    summarised by it. What the others ask of the model is in `camrt.evaluation.suite.map_queries` and
    `further_explanations`, and what becomes of the answers in `measurement` and `summary`.

    Attributes:
        title: As tables name it.
        of: The class its maps are of: the "predicted" one, the image's true "label", or each class that
            has "objects".
        needs: What the images must have: "label", "boxes", "objects" (boxes or masks), "masks", "dead zone",
            or nothing.
        better: "higher" or "lower".
        source: Where it is defined.
        explanation: What it says, as a sentence of the report.
        values: What each map has of it, if anything: a "number", or a "truth", whether it is so.
        percent: Whether the figure is 100 times the mean of the values.
        digits: Of the figure, after the point.
        only_named: Why "all" leaves it out, if it does.
        measure: From a map (H, W) and the pixels that it is about, bool (H, W): those of the objects, or of
            the dead zone; None for a metric that needs neither. A value that is not finite is undefined.
    """

    title: str
    of: Literal["predicted", "label", "objects"]
    needs: Literal["", "label", "boxes", "objects", "masks", "dead zone"] = ""
    better: Literal["higher", "lower"]
    source: str
    explanation: str
    values: Literal["", "number", "truth"] = ""
    percent: bool = False
    digits: int = 1
    only_named: str = ""
    measure: Callable[[NDArray[Any], Any], float] | None = None


METRICS: dict[str, Metric] = {
    "drop": Metric(
        title="average drop, %",
        of="predicted",
        better="lower",
        source="Grad-CAM++, section 4.1",
        explanation="How much of the class's probability is lost when the image is multiplied by its map.",
        values="number",
        percent=True,
    ),
    "increase": Metric(
        title="increase in confidence, %",
        of="predicted",
        better="higher",
        source="Grad-CAM++, section 4.1",
        explanation="How often that makes the model surer.",
        values="number",
        percent=True,
    ),
    "coherency": Metric(
        title="coherency",
        of="predicted",
        better="higher",
        source="ADCC",
        explanation="Correlation of the map with that of the image multiplied by it, from 0 to 1. Each "
        "method explains each image once more for it.",
        values="number",
        digits=3,
    ),
    "l1complexity": Metric(
        title="complexity, L1",
        of="predicted",
        better="lower",
        source="ADCC",
        explanation="Mean of the map over all pixels.",
        values="number",
        digits=3,
        measure=lambda saliency, _: float(mean_saliency(saliency[None])[0]),
    ),
    "adcc": Metric(
        title="ADCC",
        of="predicted",
        better="higher",
        source="Poppi et al. (CVPR Workshops 2021)",
        explanation="Harmonic mean of coherency, 1 − L1 complexity and 1 − the drop in probability.",
        values="number",
        digits=3,
    ),
    "arcc": Metric(
        title="ARCC",
        of="predicted",
        better="higher",
        source="Domeniconi et al. (ICPR 2026)",
        explanation="The same with ROAD, combined and doubled, in place of 1 − the drop.",
        values="number",
        digits=3,
    ),
    "compactness": Metric(
        title="compactness, cells",
        of="predicted",
        better="lower",
        source="Pixab-CAM",
        explanation="Sum of the map over the cells of its own grid: small maps say more.",
        values="number",
    ),
    "sparseness": Metric(
        title="sparseness",
        of="predicted",
        better="higher",
        source="Chalasani et al. (ICML 2020)",
        explanation="Gini index of the map's pixels: 0 if all are alike, near 1 if few have all of its sum.",
        values="number",
        digits=3,
        measure=lambda saliency, _: float(sparseness(saliency[None])[0]),
    ),
    "complexity": Metric(
        title="complexity, nats",
        of="predicted",
        better="lower",
        source="Bhatt et al. (IJCAI 2020)",
        explanation="Entropy of the pixels' shares of the map's sum.",
        values="number",
        digits=2,
        measure=lambda saliency, _: float(complexity(saliency[None])[0]),
    ),
    "deletion": Metric(
        title="deletion",
        of="predicted",
        better="lower",
        source="RISE, section 4.2",
        explanation="Area under the class's probability while pixels are set to zero, the most salient "
        "first.",
        values="number",
        digits=3,
    ),
    "insertion": Metric(
        title="insertion",
        of="predicted",
        better="higher",
        source="RISE, section 4.2",
        explanation="Area under it while true pixels are put into the blurred image, the most salient first.",
        values="number",
        digits=3,
    ),
    "roadmorf": Metric(
        title="ROAD, most relevant first",
        of="predicted",
        better="lower",
        source="ROAD",
        explanation="The class's probability once the most salient pixels are guessed from those around "
        "them, the mean of all shares removed.",
        values="number",
        digits=3,
    ),
    "roadlerf": Metric(
        title="ROAD, least relevant first",
        of="predicted",
        better="higher",
        source="ROAD",
        explanation="The same with the least salient pixels.",
        values="number",
        digits=3,
    ),
    "road": Metric(
        title="ROAD, combined",
        of="predicted",
        better="higher",
        source="ROAD, as pytorch-grad-cam combines it",
        explanation="Half of what the second of these is more than the first.",
        values="number",
        digits=3,
    ),
    "infidelity": Metric(
        title="infidelity",
        of="predicted",
        better="lower",
        source="Yeh et al. (NeurIPS 2019)",
        explanation="Mean square of what the map's sum over random squares, at its best scale, is wrong by "
        "about the fall in probability without them.",
        values="number",
        digits=5,
    ),
    "sensitivity": Metric(
        title="max-sensitivity",
        of="predicted",
        better="lower",
        source="Yeh et al. (NeurIPS 2019)",
        explanation="The most that the map changes, relative to its norm, among slightly noisy copies of the "
        "image, all of which each method explains.",
        values="number",
        digits=3,
        only_named="every method explains each image once more for each of 10 noisy copies, or as many as "
        "are asked for: name it to have it measured",
    ),
    "removal": Metric(
        title="remove and classify",
        of="label",
        needs="label",
        better="lower",
        source="CALM, section 5.3",
        explanation="Accuracy with the most salient pixels of the true class erased, relative to as many "
        "random ones, all shares erased taken together.",
        digits=3,
    ),
    "pointing": Metric(
        title="pointing game, %",
        of="objects",
        needs="objects",
        better="higher",
        source="Excitation Backprop",
        explanation="How often the map's highest pixel lies on an object of the class.",
        values="truth",
        percent=True,
        measure=is_peak_inside,
    ),
    "energy": Metric(
        title="object localisation, %",
        of="objects",
        needs="objects",
        better="higher",
        source="Score-CAM; Pixab-CAM",
        explanation="Which share of the map's sum lies on objects of the class.",
        values="number",
        percent=True,
        measure=share_inside,
    ),
    "maxboxacc": Metric(
        title="MaxBoxAcc, %",
        of="objects",
        needs="boxes",
        better="higher",
        source="WSOL evaluation, section 3.4",
        explanation="How often the box around the map's largest contour overlaps a drawn box by half, at the "
        "threshold that is best for all images.",
    ),
    "maxboxaccv2": Metric(
        title="MaxBoxAccV2, %",
        of="objects",
        needs="boxes",
        better="higher",
        source="WSOL evaluation, extended",
        explanation="The same for every contour, and the mean of overlaps 0.3, 0.5 and 0.7.",
    ),
    "pxap": Metric(
        title="PxAP, %",
        of="objects",
        needs="masks",
        better="higher",
        source="WSOL evaluation, section 3.4",
        explanation="Average precision of the map as a detector of the object's pixels, pooled over all "
        "images.",
    ),
    "mu": Metric(
        title="norm in the dead zone, μ",
        of="predicted",
        needs="dead zone",
        better="lower",
        source="See through walls",
        explanation="Norm of the map where the model cannot see, relative to its whole norm: no share of its "
        "sum. A map that is the same everywhere has the root of the zone's share.",
        values="number",
        digits=3,
        measure=lambda saliency, dead: float(dead_share(saliency[None], dead)[0]),
    ),
}
"""The metrics by name, in the order of tables."""


def title_of_left_out(name: str) -> str:
    """What tables call a metric that was left out, or a method."""
    return METRICS[name].title if name in METRICS else name


def parse_metrics(metrics: str | Sequence[str]) -> tuple[str, ...]:
    """The names of metrics, in the order of tables; "all" means all.

    Raises:
        InputError: An unknown name, or none, or no names.
    """
    if not isinstance(metrics, Iterable):
        raise InputError(f'metrics={metrics!r} must be names of metrics, or "all"')
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    if names == ["all"]:
        return tuple(METRICS)
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise InputError(
            f"unknown metric {', '.join(map(repr, unknown))}; metrics: all, {', '.join(METRICS)}"
            if unknown
            else "no metric was asked for"
        )
    return tuple(name for name in METRICS if name in names)
