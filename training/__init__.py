"""Training CAM and CALM classifiers: heads, losses, backbones, data and runs.

The files about scenes and the default are how the embedded classifier was made.

    backbone = torchvision.models.resnet50(weights="DEFAULT")
    classifier = camrt.training.with_head(backbone, "calm", 200, map_stride=8)

Everything is imported when it is asked for, torch and Lightning with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

from camrt.training.libraries import training_imports

if TYPE_CHECKING:
    from camrt.training.classifier import Classifier, ParameterGroups, with_head
    from camrt.training.heads import CALMHead, CAMHead
    from camrt.training.losses import calm_em_loss, calm_ml_loss
    from camrt.training.lr_search import Search, search
    from camrt.training.recipe import Recipe
    from camrt.training.runs import load_run
    from camrt.training.trainer import fit

__all__ = [
    "CALMHead",
    "CAMHead",
    "Classifier",
    "ParameterGroups",
    "Recipe",
    "Search",
    "calm_em_loss",
    "calm_ml_loss",
    "fit",
    "load_run",
    "search",
    "with_head",
]

if not TYPE_CHECKING:  # a type checker would take any name for one that is there
    _import, __dir__, _ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "classifier": ["Classifier", "ParameterGroups", "with_head"],
            "trainer": ["fit"],
            "heads": ["CALMHead", "CAMHead"],
            "losses": ["calm_em_loss", "calm_ml_loss"],
            "recipe": ["Recipe"],
            "runs": ["load_run"],
            "lr_search": ["Search", "search"],
        },
    )

    def __getattr__(name: str) -> object:
        with training_imports():
            return _import(name)
