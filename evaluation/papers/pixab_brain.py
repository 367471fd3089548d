"""Figure 12 of "Pixab-CAM: Attend Pixel, not Channel": a network whose last layer is trained on brain MRI.

The paper takes VGG-16 with ImageNet's weights, trains the last dense layer alone on the 253 images of the
public set, and shows the maps of six methods (specification E13; the settings are ours, it states none). Any
classifier that ends in a linear layer will do, and any folder with a folder of images for each class.
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
from camrt.engine.batch_axis import resolve_batch_axis
from camrt.engine.images.overlay import overlay
from camrt.engine.images.preprocess import METADATA_KEY
from camrt.engine.images.read import list_class_folders, read_image
from camrt.engine.images.sheets import contact_sheet
from camrt.engine.methods import Method, make_method
from camrt.engine.output_probe import make_output_prober
from camrt.engine.runtime import make_onnx_runtime
from camrt.engine.shape_probe import make_shape_observer
from camrt.errors import DataError, ImageError, UnsupportedModelError
from camrt.evaluation.datasets import Dataset, Sample, read_dataset
from camrt.evaluation.papers.last_layer_training import (
    LastLayerSettings,
    LinearLayer,
    accuracy_share,
    draw_held_out,
    train_layer,
)
from camrt.evaluation.papers.published_table import PublishedTable
from camrt.evaluation.papers.reproduced_table import ReproducedTable
from camrt.evaluation.papers.row_selection import RowSelection, select_rows, to_figure
from camrt.evaluation.papers.run_state import NO_DATA, ReproductionRun
from camrt.export.heads.last_layer import LastLayer, find_last_layer
from camrt.export.io.atomic_files import open_atomic, write_atomic
from camrt.export.io.model_file import read_model
from camrt.export.rewrites.interface import standardise

if TYPE_CHECKING:
    from camrt.engine.engine import Engine

__all__ = ["measure_brain_maps"]

MODEL_FILE, FIGURE_FILE = "model.onnx", "maps.png"
IMAGES_IN_FIGURE = 8
"""Images in the figure."""
METRICS = ("drop", "compactness")


def measure_brain_maps(run: ReproductionRun, table: PublishedTable) -> ReproducedTable:
    """Trains the last layer, and puts the maps of the methods side by side; in figures and as an image."""
    methods: dict[str, Method] = {row.key: make_method(row.key, {}) for row in table.rows}
    wanted = select_rows(run, table, methods)  # the last layer changes nothing about what is admitted
    if run.data is None or not wanted.methods:
        why = NO_DATA if run.data is None else ""
        return ReproducedTable(table, wanted.build_rows({}, why), {}, table.remarks, run.collect_facts())
    if not run.data.is_dir():
        raise DataError(f"{run.data} is no folder")
    how = LastLayerSettings(seed=run.options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) if run.out is None else run.out / table.name
        try:
            data = read_class_folders(run.data)
            trained = load_trained(run, place) or train_last_layer(run, data, how, place)
        except (DataError, UnsupportedModelError) as error:
            return ReproducedTable(
                table, wanted.build_rows({}, str(error)), {}, table.remarks, run.collect_facts()
            )
        engine = camrt.load(
            place / MODEL_FILE,
            target=[cut.target.name for cut in run.engine.cuts],
            preprocessing=run.preprocessing,
            batch_size=run.engine.batch_size,
            threads=run.engine.threads,
        )
        own = replace(run, engine=engine)
        held = set(trained["held out"])
        looked_at = replace(data, samples=tuple(each for each in data.samples if each.name in held))
        facts = run.collect_facts() | {"last layer": {k: v for k, v in trained.items() if k != "held out"}}
        evaluation = own.evaluate_methods(table.name, wanted.methods, METRICS, data=looked_at)
        found = {
            key: {name: to_figure(evaluation.figures[key].get(name)) for name in METRICS}
            for key in wanted.methods
        }
        if run.out is not None:
            draw_sheet(own, looked_at, wanted, place / FIGURE_FILE)
    facts["images"] = evaluation.results["images"]
    remarks = (
        *table.remarks,
        f"{trained['layer']} was trained on {trained['images']} images and is right on "
        f"{100 * trained['right on them']:.1f} % of them, and on {100 * trained['right on held out']:.1f} % "
        f"of the {len(held)} held-out ones, which the maps are of",
        *(
            ()
            if run.out is None
            else (f"{FIGURE_FILE} has the maps side by side, {MODEL_FILE} the trained network",)
        ),
    )
    return ReproducedTable(table, wanted.build_rows(found), {}, remarks, facts)


def read_class_folders(folder: Path) -> Dataset:
    """The images in a folder for each class.

    Raises:
        DataError: There are fewer than two such folders.
    """
    labels = list_class_folders(folder)
    if len(labels) < 2:
        raise DataError(
            f"{folder.name} needs a folder of images for each class, two at least, such as yes/ and no/"
        )
    return read_dataset(folder, kind="folder", labels=labels, num_classes=len(labels))


@dataclass(frozen=True, eq=False)
class LastLayerInputs:
    """What the last layer reads of images.

    Attributes:
        samples: Those that can be read.
        features: (N, K).
        classes: (N,).
    """

    samples: tuple[Sample, ...]
    features: NDArray[np.float64]
    classes: NDArray[np.int64]


def load_trained(run: ReproductionRun, folder: Path) -> dict[str, Any] | None:
    """The notes on a last layer that an earlier run trained; None where none is, or its file is gone."""
    noted = (
        [] if run.folder is None else [note["trained"] for note in run.folder.finished if "trained" in note]
    )
    return noted[-1] if noted and (folder / MODEL_FILE).exists() else None


def train_last_layer(
    run: ReproductionRun, data: Dataset, settings: LastLayerSettings, folder: Path
) -> dict[str, Any]:
    """Trains the last layer, writes the network, and notes what came of it.

    Raises:
        UnsupportedModelError: The network does not end in a linear layer.
        DataError: A class without two images that can be read.
    """
    if run.folder is not None:
        run.folder.check([MODEL_FILE, FIGURE_FILE])
    last, at_once = find_network_last_layer(run)
    labels = sorted({sample.path.relative_to(data.root).parts[0] for sample in data.samples})
    seen = compute_last_layer_inputs(run, last, at_once, data)
    held = draw_held_out(seen.classes, labels, settings.share, settings.seed)
    run.progress("training the last layer", 0, 0)
    layer, losses = train_layer(seen.features[~held], seen.classes[~held], len(labels), settings)
    metadata = {METADATA_KEY: run.preprocessing.to_json()}
    if run.folder is not None:
        run.folder.claim([MODEL_FILE, FIGURE_FILE])
    write_atomic(
        folder / MODEL_FILE, last.with_layer(layer.weight, layer.bias, labels, metadata).SerializeToString()
    )
    found = {
        "layer": last.node,
        "how": asdict(settings),
        "labels": labels,
        "images": int((~held).sum()),
        "losses": [round(loss, 6) for loss in losses],
        **accuracy_shares(layer, seen, held),
        "held out": [sample.name for sample, out in zip(seen.samples, held, strict=True) if out],
    }
    if run.folder is not None:
        run.folder.finish({"trained": found})
    return found


def accuracy_shares(layer: LinearLayer, inputs: LastLayerInputs, held: NDArray[np.bool_]) -> dict[str, float]:
    """How many images are right."""
    return {
        name: accuracy_share(layer, inputs.features[chosen], inputs.classes[chosen])
        for name, chosen in (("right on them", ~held), ("right on held out", held))
    }


def find_network_last_layer(run: ReproductionRun) -> tuple[LastLayer, int | None]:
    """The last layer of the network, and how many images it takes at once; None where that is open.

    Raises:
        UnsupportedModelError: It does not end in one.
    """
    if run.engine.runtime == "torch":
        raise UnsupportedModelError(
            "the last layer of a file is trained, and this is a torch model: export it to ONNX first"
        )
    model = read_model(run.engine.path).model
    analyst = make_onnx_runtime(threads=run.engine.threads, few_runs=True)
    watch = make_shape_observer(analyst)
    interface = standardise(
        model, expected_size=run.preprocessing.size, observer=watch, prober=make_output_prober(analyst)
    )
    interface, graph, _ = resolve_batch_axis(model, interface, analyst, run.preprocessing, watch)
    return find_last_layer(model, graph), interface.batch


def compute_last_layer_inputs(
    run: ReproductionRun, last_layer: LastLayer, fixed_batch: int | None, data: Dataset
) -> LastLayerInputs:
    """What the last layer reads of every image that can be read.

    Args:
        run: The run.
        last_layer: The last layer.
        fixed_batch: How many images the network takes at once; None where that is open.
        data: The images.

    Raises:
        DataError: None can be.
    """
    trunk = make_onnx_runtime(threads=run.engine.threads).make_runner(
        last_layer.trunk(), label="network up to its last layer", batch=fixed_batch
    )
    steps, samples, rows = run.preprocessing, [], []
    batch: list[NDArray[np.float32]] = []
    for number, sample in enumerate(data.samples):
        run.progress("images up to the last layer", number, len(data.samples))
        try:
            batch.append(steps.array(steps.view(read_image(sample.path))))
        except ImageError:
            run.unreadable.append(sample.name)
            continue
        samples.append(sample)
        if len(batch) == run.engine.batch_size:
            rows.append(np.asarray(trunk(np.stack(batch))[0], np.float64))
            batch = []
    if batch:
        rows.append(np.asarray(trunk(np.stack(batch))[0], np.float64))
    if not samples:
        raise DataError(f"none of {len(data.samples)} images can be read")
    classes = np.array([sample.label for sample in samples], np.int64)
    return LastLayerInputs(tuple(samples), np.concatenate(rows), classes)


def draw_sheet(run: ReproductionRun, data: Dataset, selection: RowSelection, path: Path) -> None:
    """A sheet of images, a row each: the image, and the map of each method of its predicted class."""
    engine, steps = run.engine, run.preprocessing
    titles = {row.key: row.title for row in selection.rows}
    images, captions = [], []
    for sample in choose_samples(data, IMAGES_IN_FIGURE, run.options.seed):
        try:
            view = steps.view(read_image(sample.path))
        except ImageError:  # it was there when it was measured
            continue
        explained = engine.explain_all(steps.array(view)[None], list(selection.methods.values()))
        first = explained[0]
        label = class_name(engine, int(first.targets[0]))
        images.append(view)
        captions.append(f"{sample.name}: {label} {float(first.probabilities[0, first.targets[0]]):.2f}")
        for key, found in zip(selection.methods, explained, strict=True):
            images.append(overlay(view, found.maps[0]))
            captions.append(titles[key])
    if images:
        with open_atomic(path) as file:
            contact_sheet(images, captions, len(selection.methods) + 1).save(file, format="PNG")


def choose_samples(data: Dataset, count: int, seed: int) -> Sequence[Sample]:
    """Some images, drawn, of the classes in turn."""
    by_class: Mapping[int, list[Sample]] = {
        label: [sample for sample in data.samples if sample.label == label]
        for label in sorted({sample.label for sample in data.samples if sample.label is not None})
    }
    rng = np.random.default_rng(seed)
    piles = [[own[i] for i in rng.permutation(len(own))] for own in by_class.values()]
    turns = max(map(len, piles), default=0)
    return [pile[turn] for turn in range(turns) for pile in piles if turn < len(pile)][:count]


def class_name(engine: Engine, index: int) -> str:
    """The name of a class."""
    return engine.labels[index] if engine.labels else str(index)
