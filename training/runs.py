"""What a training run leaves in its folder, and reading it again.

Each file takes its place when it is whole:

    recipe.yaml         every setting
    data.json           the classes, and which images there were
    model.safetensors   the weights, those of the epoch with the best validation loss
    model.json          what they are: head, backbone, classes, preprocessing, provenance
    last.safetensors    the whole state after the last checkpoint, to go on from
    logs/               metrics of every epoch, one folder a start
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch

import camrt
from camrt.engine.images.preprocess import Preprocessing
from camrt.errors import TrainingError
from camrt.export.io.atomic_files import write_atomic
from camrt.export.io.text_files import read_text_file
from camrt.training.backbones import build_classifier
from camrt.training.classifier import Classifier
from camrt.training.heads import HeadKind
from camrt.training.recipe import Recipe
from camrt.training.tensor_files import read_tensors, write_tensors

__all__ = ["RunDescription", "build_from_recipe", "load_run", "save_run"]

WEIGHTS: Final = "model.safetensors"
DESCRIPTION: Final = "model.json"
RECIPE: Final = "recipe.yaml"
DATA: Final = "data.json"
STATE: Final = "last.safetensors"
LOGS: Final = "logs"
FILES: Final = (WEIGHTS, DESCRIPTION, RECIPE, DATA, STATE)
FORMAT: Final = 1


@dataclass(frozen=True)
class RunDescription:
    """What a run's weights are.

    Attributes:
        head: "cam" or "calm".
        backbone: Its name, see `Recipe`.
        map_stride: As the recipe has it.
        reference_calm: As the recipe has it.
        labels: Name of each class, in order.
        preprocessing: How images become the network's input.
        provenance: Where the weights come from: recipe, data, figures, versions.
    """

    head: HeadKind
    backbone: str
    map_stride: int | None
    reference_calm: bool
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    provenance: Mapping[str, Any]


def head_kind(recipe: Recipe) -> HeadKind:
    """The head that a recipe trains."""
    kind: Literal["cam", "calm"] = "cam" if recipe.head == "cam" else "calm"
    return kind


def build_from_recipe(recipe: Recipe, num_classes: int) -> Classifier:
    """The classifier that a recipe begins with; its new weights follow from the recipe's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return build_classifier(
            recipe.backbone,
            head_kind(recipe),
            num_classes,
            map_stride=recipe.map_stride,
            size=(recipe.size, recipe.size),
            pretrained=recipe.pretrained,
            reference=recipe.reference_calm,
        )


def save_run(folder: Path, weights: Mapping[str, torch.Tensor], description: RunDescription) -> None:
    """Writes a run's weights and their description; each file takes its place when it is whole."""
    write_tensors(folder / WEIGHTS, weights, {"format": "pt"})
    content = {"camrt": camrt.__version__, "format": FORMAT, **asdict(description)}
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_atomic(folder / DESCRIPTION, text.encode())


def load_run(folder: Path) -> tuple[Classifier, RunDescription]:
    """The classifier of a run, in evaluation mode.

    Raises:
        TrainingError: There is no such run, or its files are damaged or do not fit each other.
    """
    description = read_description(folder)
    height, width = description.preprocessing.size
    classifier = build_classifier(
        description.backbone,
        description.head,
        len(description.labels),
        map_stride=description.map_stride,
        size=(height, width),
        reference=description.reference_calm,
    )
    tensors, _ = read_tensors(folder / WEIGHTS)
    try:
        classifier.load_state_dict(tensors)
    except RuntimeError as error:
        raise TrainingError(f"{folder / WEIGHTS} does not fit {folder / DESCRIPTION}: {error}") from error
    return classifier.eval(), description


def read_description(folder: Path) -> RunDescription:
    """What a run's `model.json` says.

    Raises:
        TrainingError: It is missing or damaged.
    """
    path = folder / DESCRIPTION
    try:
        content = json.loads(read_text_file(path))
        if content["format"] != FORMAT:
            raise TrainingError(f"{path} has format {content['format']!r}; this camrt reads {FORMAT}")
        return RunDescription(
            head=content["head"],
            backbone=content["backbone"],
            map_stride=content["map_stride"],
            reference_calm=content["reference_calm"],
            labels=tuple(content["labels"]),
            preprocessing=Preprocessing(**content["preprocessing"]),
            provenance=content["provenance"],
        )
    except FileNotFoundError as error:
        raise TrainingError(
            f"{folder} is no run, or one that has not finished its first epoch: {path} is missing"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise TrainingError(f"{path} cannot be read: {error!r}") from error
