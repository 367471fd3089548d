"""Training CAM and CALM classifiers: heads, losses, backbones, data and runs.

The files about scenes and the default are how the embedded classifier was made.

    backbone = torchvision.models.resnet50(weights="DEFAULT")
    classifier = camrt.training.with_head(backbone, "calm", 200, map_stride=8)

Everything is imported when it is asked for, torch and Lightning with it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camrt.training.classifier import Classifier, ParameterGroups, with_head
    from camrt.training.fitting import fit
    from camrt.training.heads import CALMHead, CAMHead
    from camrt.training.losses import calm_em_loss, calm_ml_loss
    from camrt.training.recipe import Recipe
    from camrt.training.runs import load_run

__all__ = [
    "CALMHead",
    "CAMHead",
    "Classifier",
    "ParameterGroups",
    "Recipe",
    "calm_em_loss",
    "calm_ml_loss",
    "fit",
    "load_run",
    "with_head",
]

_HOMES = {
    "CALMHead": "heads",
    "CAMHead": "heads",
    "Classifier": "classifier",
    "ParameterGroups": "classifier",
    "Recipe": "recipe",
    "calm_em_loss": "losses",
    "calm_ml_loss": "losses",
    "fit": "fitting",
    "load_run": "runs",
    "with_head": "classifier",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'camrt.training' has no attribute {name!r}")
    return getattr(import_module(f"camrt.training.{_HOMES[name]}"), name)
