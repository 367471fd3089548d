"""Evaluation: how far an explanation can be trusted, one protocol a file.

    camrt.evaluation.max_box_accuracy(maps, boxes, deltas=(0.3, 0.5, 0.7)).value
    camrt.evaluation.pxap(maps, masks).value
    engine.evaluate("images", ["pixab", "gradcam"]).figures

Importing this package imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from camrt.evaluation import adversarial_patches as adversarial_patches
    from camrt.evaluation import datasets as datasets
    from camrt.evaluation import dead_zone as dead_zone
    from camrt.evaluation import metrics as metrics
    from camrt.evaluation import papers as papers
    from camrt.evaluation.metrics.box_accuracy import max_box_accuracy
    from camrt.evaluation.metrics.pixel_precision import pxap
    from camrt.evaluation.suite import Evaluation, Settings, evaluate

__all__ = ["Evaluation", "Settings", "evaluate", "max_box_accuracy", "pxap"]

if not TYPE_CHECKING:  # a type checker would take any name for one that is there
    __getattr__, __dir__, _ = lazy_loader.attach(
        __name__,
        {"adversarial_patches", "datasets", "dead_zone", "metrics", "papers"},
        {
            "metrics.box_accuracy": ["max_box_accuracy"],
            "metrics.pixel_precision": ["pxap"],
            "suite": ["Evaluation", "Settings", "evaluate"],
        },
    )
