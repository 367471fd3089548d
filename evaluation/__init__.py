"""Evaluation: how far an explanation can be trusted, one protocol a file.

camrt.evaluation.max_box_accuracy(maps, boxes, deltas=(0.3, 0.5, 0.7)).value
camrt.evaluation.pxap(maps, masks).value
engine.evaluate("pictures", ["pixab", "gradcam"]).figures
"""

from __future__ import annotations

from camrt.evaluation.box_accuracy import max_box_accuracy
from camrt.evaluation.pixel_precision import pxap

__all__ = ["max_box_accuracy", "pxap"]
