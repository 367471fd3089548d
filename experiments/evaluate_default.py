"""Judges the embedded classifier, or a file made the same way, on scenes it was not trained on.

    python -m experiments.evaluate_default --data FOLDER --out report.md [--model classifier.onnx]

FOLDER holds `tiny_imagenet40.zip`, of which only validation images are used. Every class present in a scene
is a target in turn; its boxes are the source's boxes of that image's objects, carried to the canvas. Each
method is measured by the pointing game and by the energy in the boxes, beside two baselines that see nothing:
chance (the share of the canvas that the boxes cover) and the centre of the canvas.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from numpy.typing import NDArray
from PIL import Image

import camrt
from camrt.default import model_path
from camrt.engine.images.preprocess import METADATA_KEY, Preprocessing
from camrt.errors import CamrtError, InputError
from camrt.evaluation.box_masks import boxes_to_mask
from camrt.evaluation.metrics.localisation import energy_in_boxes, pointing_game
from camrt.export.io.atomic_files import write_atomic
from experiments.accuracy import canvases_to_uint8, measure_accuracy
from experiments.scenes import Scenes, held_out_scenes, object_boxes
from experiments.tiny_imagenet import LabelledImages, read_tiny_imagenet

__all__ = ["METHODS", "MethodResult", "evaluate_baselines", "evaluate_method", "format_markdown", "main"]

METHODS = ("activation", "eigen", "score", "ablation", "pixab")
"""The methods that are judged, behind "cam" or, of a CALM model, "calm"."""


@dataclass(frozen=True)
class MethodResult:
    """One line of the report: shares between 0 and 1.

    Attributes:
        name: a method or a baseline.
        pointing: pointing-game hit rate over all targets.
        energy: mean share of the map's sum inside the boxes, over all targets.
        pointing_several: the hit rate in scenes of two to four objects.
        energy_several: the mean energy in scenes of two to four objects.
        seconds: time spent explaining one target; None for a baseline.
    """

    name: str
    pointing: float
    energy: float
    pointing_several: float
    energy_several: float
    seconds: float | None = None


@dataclass(frozen=True)
class _Targets:
    """The targets of some scenes, in the order of scene and slot: classes, boxes and company."""

    boxes: list[NDArray[np.int64]]
    several: NDArray[np.bool_]


def _targets(scenes: Scenes, images: LabelledImages) -> _Targets:
    used = scenes.classes >= 0
    slots = zip(*np.nonzero(used), strict=True)
    boxes = [object_boxes(scenes, images, int(scene), int(slot)) for scene, slot in slots]
    return _Targets(boxes, np.repeat(used.sum(1), used.sum(1)) > 1)


def evaluate_baselines(scenes: Scenes, images: LabelledImages) -> tuple[MethodResult, MethodResult]:
    """Chance and the centre of the canvas, for the same targets as the methods.

    A uniform map has the energy of chance and hits as often if it points at random. The centre has no energy
    of its own: as a map it is one pixel, whose energy is its hit.
    """
    targets = _targets(scenes, images)
    side = scenes.canvases.shape[-1]
    inside = [boxes_to_mask(boxes, (side, side)) for boxes in targets.boxes]
    share = np.array([mask.mean() for mask in inside])
    centre = np.array([float(mask[side // 2, side // 2]) for mask in inside])
    return _summarise("chance", share, share, targets), _summarise("centre", centre, centre, targets)


def evaluate_method(
    engine: Any,
    batch: NDArray[np.float32],
    scenes: Scenes,
    images: LabelledImages,
    method: str,
    size: int = 25,
) -> MethodResult:
    """Measures one method.

    Args:
        engine: what `camrt.load` returned.
        batch: the model's input, (N, 3, S, S), of the scenes.
        scenes: the scenes.
        images: what the scenes were drawn from.
        method: a method's name.
        size: how many scenes are explained in one call.
    """
    targets = _targets(scenes, images)
    counts = (scenes.classes >= 0).sum(1)
    hits: dict[int, NDArray[np.bool_]] = {}
    energies: dict[int, NDArray[np.float64]] = {}
    starts = np.cumsum(counts) - counts
    spent = 0.0
    for count in np.unique(counts):
        alike = np.nonzero(counts == count)[0]
        for chosen in (alike[start : start + size] for start in range(0, len(alike), size)):
            started = time.perf_counter()
            answer = engine.explain(batch[chosen], method=method, targets=scenes.classes[chosen, :count])
            spent += time.perf_counter() - started
            for scene, maps in zip(chosen.tolist(), answer.maps, strict=True):
                boxes = targets.boxes[starts[scene] : starts[scene] + count]
                hits[scene] = pointing_game(maps, boxes)
                energies[scene] = energy_in_boxes(maps, boxes)
    order = range(len(scenes))
    pointing = np.concatenate([hits[scene] for scene in order]).astype(np.float64)
    energy = np.concatenate([energies[scene] for scene in order])
    return _summarise(method, pointing, energy, targets, spent / len(pointing))


def _summarise(
    name: str,
    pointing: NDArray[np.float64],
    energy: NDArray[np.float64],
    targets: _Targets,
    seconds: float | None = None,
) -> MethodResult:
    several = targets.several
    figures = (pointing, energy, pointing[several], energy[several])
    means = [float(values.mean()) if len(values) else float("nan") for values in figures]
    return MethodResult(name, means[0], means[1], means[2], means[3], seconds)


def format_markdown(
    accuracy: dict[str, float], rows: Sequence[MethodResult], number: int, targets: int
) -> str:
    """The report as Markdown: the accuracies, then a table with a line for every method and baseline."""
    lines = [
        f"{number} scenes, {targets} targets.",
        "",
        "| accuracy | |",
        "| --- | ---: |",
        *(f"| {name} | {100 * value:.1f} % |" for name, value in accuracy.items()),
        "",
        "| method | pointing | energy | pointing, 2–4 objects | energy, 2–4 objects | ms a map |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        shares = (row.pointing, row.energy, row.pointing_several, row.energy_several)
        cells = [f"{100 * share:.1f} %" for share in shares]
        cells.append("" if row.seconds is None else f"{1000 * row.seconds:.2f}")
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds tiny_imagenet40.zip.")],
    out: Annotated[Path, typer.Option(help="Where the Markdown goes; the JSON goes beside it.")],
    model: Annotated[Path | None, typer.Option(help="An ONNX file; left out, the embedded one.")] = None,
    number: Annotated[int, typer.Option(min=1, help="How many scenes.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed of the scenes.")] = 2024,
    method: Annotated[list[str] | None, typer.Option(help="A method to judge; repeatable.")] = None,
) -> None:
    """Judges accuracy and localisation, and writes a report as Markdown and as JSON."""
    path = model or model_path()
    try:
        images = read_tiny_imagenet(data, "val")
        preprocessing = _read_preprocessing(path, images.labels)
        engine = camrt.load(path)
        scenes = held_out_scenes(images, number, preprocessing.size[0], seed)
    except CamrtError as error:
        raise typer.BadParameter(str(error)) from error

    def inputs(canvases: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.stack([preprocessing.array(Image.fromarray(canvas)) for canvas in canvases])

    def predict(canvases: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts = np.array_split(canvases, -(-len(canvases) // 100))
        return np.concatenate([np.asarray(engine.predict(inputs(part))) for part in parts])

    accuracy = measure_accuracy(predict, images, scenes)
    batch = inputs(canvases_to_uint8(scenes))
    rows = list(evaluate_baselines(scenes, images))
    for name in method or ("calm" if engine.has_joint else "cam", *METHODS):
        rows.append(evaluate_method(engine, batch, scenes, images, name))
        typer.echo(f"{name}: pointing {rows[-1].pointing:.3f}, energy {rows[-1].energy:.3f}")
    targets = int((scenes.classes >= 0).sum())
    write_atomic(out, format_markdown(accuracy, rows, number, targets).encode())
    record = {
        "scenes": {"number": number, "seed": seed, "targets": targets},
        "accuracy": accuracy,
        "methods": [asdict(row) for row in rows],
    }
    write_atomic(out.with_suffix(".json"), (json.dumps(record, indent=2) + "\n").encode())
    typer.echo(f"{out} and {out.with_suffix('.json')}")


def _read_preprocessing(path: Path, labels: tuple[str, ...]) -> Preprocessing:
    """Reads a file's preprocessing; checks that its classes are the images' and its input is square."""
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    if json.loads(metadata.get("camrt.labels", "null")) != list(labels):
        raise InputError(f"{path} does not carry the labels of these images")
    preprocessing = Preprocessing.from_json(metadata.get(METADATA_KEY, ""))
    if preprocessing.size[0] != preprocessing.size[1]:
        raise InputError(f"{path} wants images of {preprocessing.size}; scenes are square")
    return preprocessing


if __name__ == "__main__":
    typer.run(main)
