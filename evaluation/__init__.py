"""Evaluation: how far an explanation can be trusted, one protocol a file.

    camrt.evaluation.max_box_accuracy(maps, boxes, deltas=(0.3, 0.5, 0.7)).value
    camrt.evaluation.pxap(maps, masks).value
    engine.evaluate("pictures", ["pixab", "gradcam"]).figures

Importing this package imports nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camrt.evaluation.box_accuracy import max_box_accuracy
    from camrt.evaluation.pixel_precision import pxap
    from camrt.evaluation.suite import evaluate

__all__ = ["evaluate", "max_box_accuracy", "pxap"]

_HOMES = {
    "evaluate": "camrt.evaluation.suite",
    "max_box_accuracy": "camrt.evaluation.box_accuracy",
    "pxap": "camrt.evaluation.pixel_precision",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'camrt.evaluation' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
