"""All metrics of all methods on a model and a folder of images, in one run that can be taken up again."""

from __future__ import annotations

from camrt.evaluation.suite.metric_registry import METRICS, Metric
from camrt.evaluation.suite.runner import Evaluation, evaluate
from camrt.evaluation.suite.settings import Settings

__all__ = ["METRICS", "Evaluation", "Metric", "Settings", "evaluate"]
