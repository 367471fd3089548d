"""The metrics that `camrt.evaluation.evaluate` and the papers' tables are made of, for maps of one's own.

Importing this package imports nothing heavy: a metric's module is loaded when its name is first looked up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from camrt.evaluation.metrics.axioms import measure_axioms
    from camrt.evaluation.metrics.box_accuracy import max_box_accuracy
    from camrt.evaluation.metrics.channel_overlap import measure_channel_overlap
    from camrt.evaluation.metrics.composites import adcc, arcc, coherency, mean_saliency
    from camrt.evaluation.metrics.concentration import complexity, sparseness
    from camrt.evaluation.metrics.cues import cue_localisation
    from camrt.evaluation.metrics.dead_zone_share import dead_share
    from camrt.evaluation.metrics.faithfulness import compactness, drops, increases
    from camrt.evaluation.metrics.imputed_removal import road
    from camrt.evaluation.metrics.localisation import energy_in_boxes, pointing_game
    from camrt.evaluation.metrics.patch_tasks import measure_activation_dependence, measure_patch_localisation
    from camrt.evaluation.metrics.pixel_precision import pxap
    from camrt.evaluation.metrics.randomisation import cascading_randomisation
    from camrt.evaluation.metrics.removal import remove_and_classify
    from camrt.evaluation.metrics.sensitivity import max_sensitivity
    from camrt.evaluation.metrics.square_removal import draw_squares, infidelity, square_sums

__all__ = [
    "adcc",
    "arcc",
    "cascading_randomisation",
    "coherency",
    "compactness",
    "complexity",
    "cue_localisation",
    "dead_share",
    "draw_squares",
    "drops",
    "energy_in_boxes",
    "increases",
    "infidelity",
    "max_box_accuracy",
    "max_sensitivity",
    "mean_saliency",
    "measure_activation_dependence",
    "measure_axioms",
    "measure_channel_overlap",
    "measure_patch_localisation",
    "pointing_game",
    "pxap",
    "remove_and_classify",
    "road",
    "sparseness",
    "square_sums",
]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "axioms": ["measure_axioms"],
        "box_accuracy": ["max_box_accuracy"],
        "channel_overlap": ["measure_channel_overlap"],
        "composites": ["adcc", "arcc", "coherency", "mean_saliency"],
        "concentration": ["complexity", "sparseness"],
        "cues": ["cue_localisation"],
        "dead_zone_share": ["dead_share"],
        "faithfulness": ["compactness", "drops", "increases"],
        "localisation": ["energy_in_boxes", "pointing_game"],
        "patch_tasks": ["measure_activation_dependence", "measure_patch_localisation"],
        "pixel_precision": ["pxap"],
        "randomisation": ["cascading_randomisation"],
        "removal": ["remove_and_classify"],
        "sensitivity": ["max_sensitivity"],
        "square_removal": ["draw_squares", "infidelity", "square_sums"],
        "imputed_removal": ["road"],
    },
)
