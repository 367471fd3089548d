"""Figure 12 of "Pixab-CAM: Attend Pixel, not Channel": a network whose last layer is trained on brain MRI.

The paper takes VGG-16 with ImageNet's weights, trains the last dense layer alone on the 253 pictures of the
public set, and shows the maps of six methods (specification E13; the settings are ours, it states none). Any
classifier that ends in a linear layer will do, and any folder with a folder of pictures for each class.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import camrt
from camrt.engine.backends import onnx_runtime
from camrt.engine.batch_axis import settle_batch
from camrt.engine.methods import Method, build
from camrt.engine.observing import observer
from camrt.engine.overlay import contact_sheet, overlay
from camrt.engine.pictures import read_picture
from camrt.engine.preprocessing import METADATA_KEY
from camrt.engine.probing import prober
from camrt.errors import DataError, PictureError, UnsupportedModelError
from camrt.evaluation.datasets import Dataset, Sample, read_dataset
from camrt.evaluation.reproduce.paper_tables import PublishedTable
from camrt.evaluation.reproduce.rows import Reproduced
from camrt.evaluation.reproduce.running import NO_DATA, Run
from camrt.evaluation.reproduce.wanting import Wanted, figure_of, wanted_rows
from camrt.evaluation.transfer import Layer, Transfer, held_out, right_share, train_layer
from camrt.export.files import whole_file, write_whole
from camrt.export.interface import standardise
from camrt.export.last_layer import LastLayer, find_last_layer
from camrt.export.reading import read_model

if TYPE_CHECKING:
    from camrt.engine.session import Engine

__all__ = ["brain_maps"]

MODEL, FIGURE = "model.onnx", "maps.png"
SHOWN = 8
"""Pictures in the figure."""
METRICS = ("drop", "compactness")


def brain_maps(run: Run, table: PublishedTable) -> Reproduced:
    """Trains the last layer, and puts the maps of the methods side by side; in figures and as a picture."""
    methods: dict[str, Method] = {row.key: build(row.key, {}) for row in table.rows}
    wanted = wanted_rows(run, table, methods)  # the last layer changes nothing about what is admitted
    if run.data is None or not wanted.methods:
        why = NO_DATA if run.data is None else ""
        return Reproduced(table, wanted.finished({}, why), {}, table.remarks, run.facts())
    if not run.data.is_dir():
        raise DataError(f"{run.data} is no folder")
    how = Transfer(seed=run.options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) if run.out is None else run.out / table.name
        try:
            data = class_folders(run.data)
            trained = taken_up(run, place) or trained_anew(run, data, how, place)
        except (DataError, UnsupportedModelError) as error:
            return Reproduced(table, wanted.finished({}, str(error)), {}, table.remarks, run.facts())
        engine = camrt.load(
            place / MODEL,
            target=[cut.target.name for cut in run.engine.cuts],
            preprocessing=run.preprocessing,
            batch_size=run.engine.batch_size,
            threads=run.engine.threads,
        )
        own = replace(run, engine=engine)
        held = set(trained["held out"])
        looked_at = replace(data, samples=tuple(each for each in data.samples if each.name in held))
        facts = run.facts() | {"last layer": {k: v for k, v in trained.items() if k != "held out"}}
        evaluation = own.evaluated(table.name, wanted.methods, METRICS, data=looked_at)
        found = {
            key: {name: figure_of(evaluation.figures[key].get(name)) for name in METRICS}
            for key in wanted.methods
        }
        if run.out is not None:
            draw(own, looked_at, wanted, place / FIGURE)
    facts["pictures"] = evaluation.results["pictures"]
    remarks = (
        *table.remarks,
        f"{trained['layer']} was trained on {trained['pictures']} pictures and is right on "
        f"{100 * trained['right on them']:.1f} % of them, and on {100 * trained['right on held out']:.1f} % "
        f"of the {len(held)} held-out ones, which the maps are of",
        *(() if run.out is None else (f"{FIGURE} has the maps side by side, {MODEL} the trained network",)),
    )
    return Reproduced(table, wanted.finished(found), {}, remarks, facts)


def class_folders(folder: Path) -> Dataset:
    """The pictures in a folder for each class.

    Raises:
        DataError: There are fewer than two such folders.
    """
    labels = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    if len(labels) < 2:
        raise DataError(
            f"{folder.name} needs a folder of pictures for each class, two at least, such as yes/ and no/"
        )
    return read_dataset(folder, kind="folder", labels=labels, num_classes=len(labels))


@dataclass(frozen=True, eq=False)
class Seen:
    """What the last layer reads of pictures.

    Attributes:
        samples: Those that can be read.
        features: (N, K).
        classes: (N,).
    """

    samples: tuple[Sample, ...]
    features: NDArray[np.float64]
    classes: NDArray[np.int64]


def taken_up(run: Run, place: Path) -> dict[str, Any] | None:
    """What was noted of a last layer that was trained before; None where none was."""
    noted = (
        [] if run.folder is None else [note["trained"] for note in run.folder.finished if "trained" in note]
    )
    return noted[-1] if noted and (place / MODEL).exists() else None


def trained_anew(run: Run, data: Dataset, how: Transfer, place: Path) -> dict[str, Any]:
    """Trains the last layer, writes the network, and notes what came of it.

    Raises:
        UnsupportedModelError: The network does not end in a linear layer.
        DataError: A class without two pictures that can be read.
    """
    if run.folder is not None:
        run.folder.check([MODEL, FIGURE])
    last, at_once = last_layer(run)
    labels = sorted({sample.path.relative_to(data.root).parts[0] for sample in data.samples})
    seen = seen_by(run, last, at_once, data)
    held = held_out(seen.classes, labels, how.share, how.seed)
    run.tell("training the last layer", 0, 0)
    layer, losses = train_layer(seen.features[~held], seen.classes[~held], len(labels), how)
    metadata = {METADATA_KEY: run.preprocessing.to_json()}
    if run.folder is not None:
        run.folder.claim([MODEL, FIGURE])
    write_whole(place / MODEL, last.replaced(layer.weight, layer.bias, labels, metadata).SerializeToString())
    found = {
        "layer": last.node,
        "how": asdict(how),
        "labels": labels,
        "pictures": int((~held).sum()),
        "losses": [round(loss, 6) for loss in losses],
        **shares(layer, seen, held),
        "held out": [sample.name for sample, out in zip(seen.samples, held, strict=True) if out],
    }
    if run.folder is not None:
        run.folder.finish({"trained": found})
    return found


def shares(layer: Layer, seen: Seen, held: NDArray[np.bool_]) -> dict[str, float]:
    """How many pictures are right."""
    return {
        name: right_share(layer, seen.features[chosen], seen.classes[chosen])
        for name, chosen in (("right on them", ~held), ("right on held out", held))
    }


def last_layer(run: Run) -> tuple[LastLayer, int | None]:
    """The last layer of the network, and how many pictures it takes at once; None where that is open.

    Raises:
        UnsupportedModelError: It does not end in one.
    """
    if run.engine.runtime == "torch":
        raise UnsupportedModelError(
            "the last layer of a file is trained, and this is a torch model: export it to ONNX first"
        )
    model = read_model(run.engine.path).model
    analyst = onnx_runtime(threads=run.engine.threads, few_runs=True)
    watch = observer(analyst)
    interface = standardise(
        model, expected_size=run.preprocessing.size, observer=watch, prober=prober(analyst)
    )
    interface, graph, _ = settle_batch(model, interface, analyst, run.preprocessing, watch)
    return find_last_layer(model, graph), interface.batch


def seen_by(run: Run, last: LastLayer, at_once: int | None, data: Dataset) -> Seen:
    """What the last layer reads of every picture that can be read.

    Args:
        run: The run.
        last: The last layer.
        at_once: How many pictures the network takes at once; None where that is open.
        data: The pictures.

    Raises:
        DataError: None can be.
    """
    trunk = onnx_runtime(threads=run.engine.threads).runner(
        last.trunk(), label="network up to its last layer", batch=at_once
    )
    steps, samples, rows = run.preprocessing, [], []
    batch: list[NDArray[np.float32]] = []
    for number, sample in enumerate(data.samples):
        run.tell("pictures up to the last layer", number, len(data.samples))
        try:
            batch.append(steps.array(steps.view(read_picture(sample.path))))
        except PictureError:
            run.unreadable.append(sample.name)
            continue
        samples.append(sample)
        if len(batch) == run.engine.batch_size:
            rows.append(np.asarray(trunk(np.stack(batch))[0], np.float64))
            batch = []
    if batch:
        rows.append(np.asarray(trunk(np.stack(batch))[0], np.float64))
    if not samples:
        raise DataError(f"none of {len(data.samples)} pictures can be read")
    classes = np.array([sample.label for sample in samples], np.int64)
    return Seen(tuple(samples), np.concatenate(rows), classes)


def draw(run: Run, data: Dataset, wanted: Wanted, path: Path) -> None:
    """A sheet of pictures, a row each: the picture, and the map of each method of its predicted class."""
    engine, steps = run.engine, run.preprocessing
    titles = {row.key: row.title for row in wanted.rows}
    images, captions = [], []
    for sample in chosen(data, SHOWN, run.options.seed):
        try:
            view = steps.view(read_picture(sample.path))
        except PictureError:  # it was there when it was measured
            continue
        explained = engine.explain_all(steps.array(view)[None], list(wanted.methods.values()))
        first = explained[0]
        label = named(engine, int(first.targets[0]))
        images.append(view)
        captions.append(f"{sample.name}: {label} {float(first.probabilities[0, first.targets[0]]):.2f}")
        for key, found in zip(wanted.methods, explained, strict=True):
            images.append(overlay(view, found.maps[0]))
            captions.append(titles[key])
    if images:
        with whole_file(path) as file:
            contact_sheet(images, captions, len(wanted.methods) + 1).save(file, format="PNG")


def chosen(data: Dataset, count: int, seed: int) -> Sequence[Sample]:
    """Some pictures, drawn, of the classes in turn."""
    by_class: Mapping[int, list[Sample]] = {
        label: [sample for sample in data.samples if sample.label == label]
        for label in sorted({sample.label for sample in data.samples if sample.label is not None})
    }
    rng = np.random.default_rng(seed)
    piles = [[own[i] for i in rng.permutation(len(own))] for own in by_class.values()]
    turns = max(map(len, piles), default=0)
    return [pile[turn] for turn in range(turns) for pile in piles if turn < len(pile)][:count]


def named(engine: Engine, index: int) -> str:
    """The name of a class."""
    return engine.labels[index] if engine.labels else str(index)
