"""The report's examples: images with the maps of every method."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from camrt.engine.images.read import read_image
from camrt.engine.map_placement import Ground
from camrt.errors import ImageError
from camrt.evaluation.suite.measurement import TableRow
from camrt.evaluation.suite.summary import rebuild_map

if TYPE_CHECKING:
    from camrt.evaluation.suite import Evaluation

__all__ = ["DrawnMap", "Example", "choose_images", "draw_examples"]

SIDE = 448  # pixels that an example has at most


@dataclass(frozen=True)
class DrawnMap:
    """A method's map of an example.

    Attributes:
        method: The method's name.
        caption: Its name and what was measured on the map.
        overlay: The image with the map over it.
        heat: The map alone.
    """

    method: str
    caption: str
    overlay: Image.Image
    heat: Image.Image


@dataclass(frozen=True)
class Example:
    """An image of the report.

    Attributes:
        name: Of its file.
        description: What the model says of it, and why it is shown.
        image: The image, reduced.
        maps: One a method.
    """

    name: str
    description: str
    image: Image.Image
    maps: list[DrawnMap]


def choose_images(evaluation: Evaluation) -> dict[str, str]:
    """The images to show, and why: half by the seed, half those whose methods disagree most."""
    wanted = evaluation.plan.settings.examples
    apart = evaluation.disagreement
    names = list(apart)
    if wanted >= len(names):
        return dict.fromkeys(names, "")
    methods = evaluation.plan.methods
    disputed = 0 if len(methods) < 2 else wanted // 2
    most = sorted(names, key=lambda name: (-apart[name], name))[:disputed]
    rest = [name for name in names if name not in most]
    rng = np.random.default_rng(evaluation.plan.settings.seed)
    drawn = [
        rest[place] for place in sorted(rng.choice(len(rest), wanted - disputed, replace=False).tolist())
    ]
    return dict.fromkeys(drawn, "drawn at random") | dict.fromkeys(most, "where the methods disagree most")


def draw_examples(evaluation: Evaluation) -> list[Example]:
    """Images with the map of every method, for the class that was predicted."""
    preprocessing = evaluation.plan.engine.preprocessing
    assert preprocessing is not None  # an evaluation is not begun without it
    chosen = choose_images(evaluation)
    rows, images = _find_rows(evaluation, chosen)
    samples = {sample.name: sample for sample in evaluation.dataset.samples}
    shown = []
    for name, why in chosen.items():
        try:
            whole = read_image(samples[name].path)
        except ImageError:  # it was there when it was measured
            continue
        framing = preprocessing.framing((whole.height, whole.width))
        ground = Ground(whole, framing.region).fitted(SIDE, SIDE)
        black = Ground(Image.new("RGB", ground.image.size), ground.region)
        maps = []
        for method, row in rows[name].items():
            saliency = rebuild_map(row, evaluation.plan, preprocessing.size)
            heat = black.draw(saliency, {"opacity": 1.0})
            maps.append(DrawnMap(method, _caption(method, row), ground.draw(saliency, {}), heat))
        told = _describe_prediction(evaluation, images[name], why)
        shown.append(Example(name, told, ground.image, maps))
    return shown


def _find_rows(
    evaluation: Evaluation, names: Collection[str]
) -> tuple[dict[str, dict[str, TableRow]], dict[str, TableRow]]:
    """Images' rows of the predicted class, or else of the first, by method; and those of the images."""
    found: dict[str, dict[str, TableRow]] = {name: {} for name in names}
    images: dict[str, TableRow] = {}
    for block in evaluation.blocks:
        images |= {row["image"]: row for row in block.images if row["image"] in found}
        for row in block.maps:
            if row["image"] not in found or row["method"] not in evaluation.plan.methods:
                continue
            own = found[row["image"]]
            if row["method"] not in own or row["is_predicted"]:
                own[row["method"]] = row
    return found, images


def _describe_prediction(evaluation: Evaluation, row: Mapping[str, Any], why: str) -> str:
    labels = evaluation.plan.engine.labels
    name = labels[row["predicted"]] if labels else f"class {row['predicted']}"
    told = f"{name}, probability {row['probability']:.2f}"
    if row["label"] is not None and row["label"] != row["predicted"]:
        told += f"; truly {labels[row['label']] if labels else row['label']}"
    return f"{told}; {why}" if why else told


def _caption(method: str, row: Mapping[str, Any]) -> str:
    parts = [method]
    if row.get("deletion") is not None:
        parts.append(f"del {row['deletion']:.2f}")
    if row.get("insertion") is not None:
        parts.append(f"ins {row['insertion']:.2f}")
    if row["flag"]:
        parts.append("no map")
    return " · ".join(parts)
