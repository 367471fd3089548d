"""CAM and CALM side by side: one backbone and budget, several seeds and learning rates.

    python -m experiments.compare_heads --data FOLDER --out docs/results/calm_and_cam.md

FOLDER holds `tiny_imagenet40.zip` and `load_brain_mri.zip`. Every run is trained as `camrt train` trains,
written as an ONNX file as `camrt export` writes it, and measured on that file with camrt's engine. What is
measured is kept in a JSON file beside the report; a comparison that was cut off goes on where it was.
"""

from __future__ import annotations

import io
import json
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer
from PIL import Image

import camrt
from camrt.engine.engine import Engine
from camrt.engine.torch_models.to_onnx import to_onnx
from camrt.errors import CamrtError, InputError
from camrt.evaluation.metrics.removal import remove_and_classify
from camrt.export.io.atomic_files import write_atomic
from camrt.training.recipe import Recipe
from camrt.training.runs import load_run
from camrt.training.splits import Split, hold_out, read_class_folders
from camrt.training.trainer import fit
from experiments.accuracy import canvases_to_uint8
from experiments.default_classes import LABELS, class_of_wnid
from experiments.evaluate_default import evaluate_baselines, evaluate_method
from experiments.scenes import Scenes, held_out_scenes
from experiments.tiny_imagenet import LabelledImages, read_tiny_imagenet

__all__ = ["HEADS", "main"]

HEADS: Final = ("cam", "calm-ml", "calm-em")
SEEDS: Final = (0, 1, 2)
SHARES: Final = (0.1, 0.3, 0.5)
CANVAS: Final = 128
SCENE_SEED: Final = 7
NATURAL: Final = {"size": 64, "canvas": 72, "epochs": 10, "batch_size": 64, "warmup": 1}
MRI: Final = {"size": 64, "canvas": 72, "epochs": 40, "batch_size": 16, "warmup": 2}
RATES: Final = {"natural": (0.05, 0.02), "mri": (0.02, 0.01)}


@dataclass(frozen=True)
class ComparisonData:
    """A data set to compare on.

    Attributes:
        name: "natural" or "mri".
        train: Images to train on.
        held: Images to measure on; no epoch is chosen by them.
        settings: Of the recipe.
        scenes: Scenes to point in, and the images they are made of; None for none.
    """

    name: str
    train: Split
    held: Split
    settings: Mapping[str, Any]
    scenes: tuple[Scenes, LabelledImages] | None


def load_natural_images(data: Path, work: Path, each: int, number: int) -> ComparisonData:
    """The classes of the embedded classifier, out of forty of Tiny ImageNet, in a folder each."""
    unpacked = work / "natural"
    members = class_of_wnid()
    with zipfile.ZipFile(data / "tiny_imagenet40.zip") as archive:
        counted: dict[str, int] = {}
        for name in sorted(archive.namelist()):
            parts = PurePosixPath(name).parts
            if len(parts) != 3 or parts[1] not in members or not name.lower().endswith((".jpeg", ".jpg")):
                continue
            place = f"{parts[0]}/{parts[1]}"
            counted[place] = counted.get(place, 0) + 1
            if parts[0] == "train" and counted[place] > each:
                continue
            folder = unpacked / parts[0] / LABELS[members[parts[1]]]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / parts[2]).write_bytes(archive.read(name))
    train = read_class_folders(unpacked / "train")
    if train.labels != LABELS:
        raise InputError("the folders' classes are not in the order of the embedded classifier's")
    images = read_tiny_imagenet(data, "val")
    scenes = held_out_scenes(images, number, CANVAS, SCENE_SEED)
    return ComparisonData(
        "natural", train, read_class_folders(unpacked / "val", LABELS), NATURAL, (scenes, images)
    )


def load_brain_mri(data: Path, work: Path) -> ComparisonData:
    """Slices of brains with and without a tumour, a fifth of each held out."""
    unpacked = work / "mri"
    with zipfile.ZipFile(data / "brain_mri.zip") as archive:
        for name in archive.namelist():
            path = PurePosixPath(name)
            if path.suffix.lower() in (".jpg", ".jpeg", ".png") and path.parent.name in ("yes", "no"):
                folder = unpacked / path.parent.name
                folder.mkdir(parents=True, exist_ok=True)
                with Image.open(io.BytesIO(archive.read(name))) as image:
                    image.convert("RGB").save(folder / f"{path.stem}.png")
    train, held = hold_out(read_class_folders(unpacked), 0.2, 0)
    return ComparisonData("mri", train, held, MRI, None)


def measure_engine(engine: Engine, imaged: ComparisonData, most: int) -> dict[str, float]:
    """The figures of one exported file."""
    steps = engine.preprocessing
    assert steps is not None
    chosen = np.random.default_rng(0).permutation(len(imaged.held))[:most]
    held = imaged.held
    batch = np.stack([steps.array(steps.view(Image.open(path).convert("RGB"))) for path in held.files])
    right = engine.predict(batch).argmax(axis=1) == held.classes
    figures = {"accuracy": float(right.mean())}
    method = "calm" if engine.has_joint else "cam"
    native = engine.explain(batch[chosen], method, targets=held.classes[chosen], size="map")
    sums = (native.raw if method == "calm" else native.maps).astype(np.float64).sum(axis=(1, 2))
    of_class = native.probabilities[np.arange(len(chosen)), held.classes[chosen]]
    figures["completeness"] = float(np.abs(sums - of_class).mean())
    options: dict[str, Any] = {} if method == "calm" else {"normalisation": "minmax"}
    maps = engine.explain(batch[chosen], method, targets=held.classes[chosen], **options).maps
    for removal in remove_and_classify(
        engine.predict, batch[chosen], held.classes[chosen], maps, shares=SHARES
    ):
        percent = round(100 * removal.share)
        figures[f"removed_{percent}"] = removal.accuracy
        figures[f"random_{percent}"] = removal.random
        figures[f"ratio_{percent}"] = removal.ratio
    if imaged.scenes is not None:
        scenes, images = imaged.scenes
        canvases = [
            scene_preprocessing(engine).array(Image.fromarray(canvas)) for canvas in canvases_to_uint8(scenes)
        ]
        row = evaluate_method(engine, np.stack(canvases), scenes, images, method)
        figures |= {"pointing": row.pointing, "energy": row.energy, "pointing_several": row.pointing_several}
    return {name: float(f"{value:.6g}") for name, value in figures.items()}


def scene_preprocessing(engine: Engine) -> Any:
    """The engine's preprocessing at the size of scenes."""
    from dataclasses import replace

    assert engine.preprocessing is not None
    return replace(engine.preprocessing, size=(CANVAS, CANVAS))


def train_and_measure(
    imaged: ComparisonData, head: str, rate: float, seed: int, work: Path, most: int
) -> dict[str, Any]:
    """Trains, exports and measures one classifier."""
    recipe = Recipe.from_settings(
        {
            "recipe": "scratch",
            "backbone": "small",
            "head": head,
            "lr": rate,
            "seed": seed,
            "workers": 1,
            **imaged.settings,
        }
    )
    folder = work / f"{imaged.name}-{head}-{rate:g}-{seed}"
    started = time.perf_counter()
    # Nothing is chosen by the held-out images: those to validate on, whose best epoch a run keeps, are
    # others.
    train, validation = hold_out(imaged.train, 0.1, seed)
    fit(recipe, train, validation, folder, accelerator="cpu", progress=False)
    seconds = time.perf_counter() - started
    classifier, description = load_run(folder)
    model = folder / "model.onnx"
    size = description.preprocessing.size
    example = np.random.default_rng(seed).standard_normal((2, 3, *size), np.float32)
    to_onnx(
        classifier,
        example,
        model,
        labels=description.labels,
        preprocessing=description.preprocessing,
        dynamic_size=True,
        provenance=description.provenance,
    )
    figures = measure_engine(camrt.load(model, size=None), imaged, most)
    return {
        "data": imaged.name,
        "head": head,
        "lr": rate,
        "seed": seed,
        "epoch": description.provenance["epochs_trained"],
        "seconds": round(seconds, 1),
        **figures,
    }


def format_table(rows: Sequence[Mapping[str, Any]], data: str) -> Iterator[str]:
    """The lines of one data set's table: means ± standard deviations over seeds."""
    columns = [
        ("accuracy", "accuracy", 100, " %"),
        ("completeness", "completeness error", 1, ""),
        *((f"ratio_{share}", f"R at {share} %", 1, "") for share in (10, 30, 50)),
        ("pointing", "pointing", 100, " %"),
        ("pointing_several", "pointing, 2–4 objects", 100, " %"),
        ("energy", "energy in boxes", 100, " %"),
    ]
    mine = [row for row in rows if row["data"] == data]
    shown = [column for column in columns if column[0] in mine[0]]
    yield f"| head | lr | {' | '.join(column[1] for column in shown)} |"
    yield f"| --- | --- | {' | '.join('---:' for _ in shown)} |"
    for rate in RATES[data]:
        for head in HEADS:
            group = [row for row in mine if (row["head"], row["lr"]) == (head, rate)]
            cells = []
            for name, _, scale, unit in shown:
                values = np.array([row[name] for row in group], np.float64) * scale
                small = name == "completeness" and values.max() < 1e-3
                number = f"{values.mean():.1e}" if small else f"{values.mean():.{1 if unit else 3}f}"
                spread = "" if small else f" ± {values.std(ddof=1):.{1 if unit else 3}f}"
                cells.append(f"{number}{spread}{unit}")
            yield f"| {head} | {rate:g} | {' | '.join(cells)} |"


def format_report(rows: Sequence[Mapping[str, Any]], command: str, floors: Mapping[str, float]) -> str:
    """The tables as Markdown, without the words that are put around them."""
    lines = [f"`{command}`", ""]
    titles = {
        "natural": "Natural images: 33 classes out of Tiny ImageNet",
        "mri": "Brain MRI: tumour or none",
    }
    for data, title in titles.items():
        if any(row["data"] == data for row in rows):
            lines += [f"## {title}", "", *format_table(rows, data), ""]
    lines += [
        f"Pointing by chance {100 * floors['chance']:.1f} %, at the centre {100 * floors['centre']:.1f} %.",
        "",
    ]
    return "\n".join(lines)


def replace_tables(path: Path, tables: str) -> None:
    """Writes the tables, in the place of those that are there; what is written around them stays."""
    first, last = "<!-- tables -->", "<!-- end of tables -->"
    text = path.read_text(encoding="utf-8") if path.exists() else f"{first}\n{last}\n"
    before, _, rest = text.partition(first)
    after = rest.partition(last)[2]
    write_atomic(path, f"{before}{first}\n\n{tables}\n{last}{after}".encode())


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds tiny_imagenet40.zip and brain_mri.zip.")],
    out: Annotated[
        Path, typer.Option(help="Where the tables go, as Markdown; what was measured goes beside, as JSON.")
    ],
    work: Annotated[
        Path | None, typer.Option(help="Folder for the runs; left out, one that is removed again.")
    ] = None,
    each: Annotated[int, typer.Option(help="Images to train on of each of the forty classes.")] = 250,
    number: Annotated[int, typer.Option(help="Scenes to point in.")] = 250,
    most: Annotated[int, typer.Option(help="Images to explain.")] = 600,
) -> None:
    """Trains and measures every classifier of the comparison, and writes its tables."""
    torch.use_deterministic_algorithms(True)
    with tempfile.TemporaryDirectory() as temporary:
        place = work or Path(temporary)
        record = out.with_suffix(".json")
        rows: list[dict[str, Any]] = json.loads(record.read_text())["runs"] if record.exists() else []
        try:
            sets = [load_natural_images(data, place, each, number), load_brain_mri(data, place)]
            floors: dict[str, float] = {}
            for imaged in sets:
                if imaged.scenes is not None:
                    floors = {row.name: row.pointing for row in evaluate_baselines(*imaged.scenes)}
                done = {(row["data"], row["head"], row["lr"], row["seed"]) for row in rows}
                for seed in SEEDS:
                    for rate in RATES[imaged.name]:
                        for head in HEADS:
                            if (imaged.name, head, rate, seed) in done:
                                continue
                            rows.append(train_and_measure(imaged, head, rate, seed, place, most))
                            typer.echo(json.dumps(rows[-1]))
                            settings = {"each": each, "scenes": number, "explained": most}
                            content = {"settings": settings, "floors": floors, "runs": rows}
                            write_atomic(record, (json.dumps(content, indent=1) + "\n").encode())
        except CamrtError as error:
            raise typer.BadParameter(str(error)) from error
    command = "python -m experiments.compare_heads --data FOLDER --out docs/results/calm_and_cam.md"
    replace_tables(out, format_report(rows, command, floors))


if __name__ == "__main__":
    typer.run(main)
