"""The report's drawings: curves as SVG, and images with their maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from camrt.engine.extras import import_extra
from camrt.engine.images.overlay import overlay
from camrt.engine.images.read import read_image
from camrt.engine.printable import escape_chart
from camrt.errors import ImageError
from camrt.evaluation.suite.measurement import TableRow
from camrt.evaluation.suite.summary import rebuild_map

if TYPE_CHECKING:
    from camrt.evaluation.suite import Evaluation

__all__ = ["ExampleDrawings", "choose_images", "draw_curves", "draw_examples"]

ExampleDrawings = tuple[str, str, list[tuple[str, str]]]
"""An image's name, what is said of it, and its drawings with their captions, as data URLs."""


def draw_curves(
    title: str, lines: Mapping[str, Sequence[float | None]], positions: Sequence[float], x: str, y: str
) -> str:
    """Curves over the same places, as SVG without a date, so that the same curves give the same bytes."""
    matplotlib, figures = import_extra("matplotlib"), import_extra("matplotlib.figure")
    with matplotlib.rc_context({"svg.hashsalt": "camrt", "svg.fonttype": "none", "font.size": 9}):
        figure = figures.Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for name, values in lines.items():
            numbers = [np.nan if value is None else value for value in values]
            axes.plot(
                positions,
                numbers,
                label=escape_chart(name),
                linewidth=1.4,
                marker="o" if len(positions) < 12 else None,
            )
        axes.set(title=title, xlabel=x, ylabel=y)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


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


def draw_examples(evaluation: Evaluation) -> list[ExampleDrawings]:
    """Images with the map of every method, for the class that was predicted."""
    preprocessing = evaluation.plan.engine.preprocessing
    assert preprocessing is not None  # an evaluation is not begun without it
    chosen = choose_images(evaluation)
    rows, images = _find_rows(evaluation, chosen)
    samples = {sample.name: sample for sample in evaluation.dataset.samples}
    shown = []
    for name, why in chosen.items():
        try:
            view = preprocessing.view(read_image(samples[name].path))
        except ImageError:  # it was there when it was measured
            continue
        drawings = [("the image", _to_data_url(view))]
        for method, row in rows[name].items():
            saliency = rebuild_map(row, evaluation.plan, preprocessing.size)
            drawings.append((_caption(method, row), _to_data_url(overlay(view, saliency))))
        shown.append((name, _describe_prediction(evaluation, images[name], why), drawings))
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


def _to_data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
