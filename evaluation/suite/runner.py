"""Runs an evaluation: measures images in blocks, stores each block, and summarises them at the end."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from camrt.engine.description import cost_row
from camrt.engine.digests import combined_digest
from camrt.engine.identity import model_identity, package_versions
from camrt.engine.images.preprocess import Preprocessing
from camrt.engine.methods import Method
from camrt.engine.queries import NO_PROBABILITIES
from camrt.engine.run_folder import lock_folder
from camrt.engine.runs.actors import Cluster
from camrt.errors import DataError, InputError
from camrt.evaluation.datasets import Dataset, Sample, read_dataset
from camrt.evaluation.suite.block_run import BlockMeasurer, ImageBlocks, Progress, hash_files, measure_blocks
from camrt.evaluation.suite.block_store import (
    RESULTS,
    BlocksInMemory,
    BlockStore,
    FinishedTables,
    MeasuredBlocks,
)
from camrt.evaluation.suite.measurement import Measurements
from camrt.evaluation.suite.metric_registry import METRICS, parse_metrics
from camrt.evaluation.suite.plan import MeasurementPlan
from camrt.evaluation.suite.settings import Settings, parse_methods
from camrt.evaluation.suite.summary import summarise
from camrt.export.io.atomic_files import write_atomic
from camrt.kernels.float_errors import ignore_float_errors

if TYPE_CHECKING:
    from camrt.engine.engine import Engine

__all__ = ["BLOCK", "Evaluation", "evaluate"]

BLOCK = 8
"""Images measured at a time; what a run that is killed loses."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found.

    Attributes:
        results: What `results.json` holds: settings, counts, problems and the figures of every method.
        blocks: The rows behind the figures, a block of images after the other; of a run with a folder they
            are read from it.
        plan: What was measured.
        dataset: The images.
        disagreement: For each image 1 − the mean cosine between the methods' maps; empty of a run that had
            come to its end before.
    """

    results: dict[str, Any]
    blocks: Iterable[Measurements]
    plan: MeasurementPlan
    dataset: Dataset
    disagreement: Mapping[str, float] = field(default_factory=dict)

    @property
    def measured(self) -> Measurements:
        """All rows behind the figures, in memory."""
        found = Measurements()
        for block in self.blocks:
            found.extend(block)
        return found

    @property
    def figures(self) -> dict[str, dict[str, dict[str, Any]]]:
        """For each method the figure of each metric; `["pixab"]["deletion"]["value"]`."""
        found: dict[str, dict[str, dict[str, Any]]] = self.results["figures"]
        return found

    def __repr__(self) -> str:
        return (
            f"<Evaluation of {', '.join(self.plan.methods)} on {self.results['images']['measured']} images: "
            f"{', '.join(self.plan.metrics)}>"
        )


@ignore_float_errors
def evaluate(
    engine: Engine,
    data: Dataset | str | Path,
    methods: str | Sequence[str | Method] | Mapping[str, str | Method] = ("pixab", "gradcam", "ablation"),
    metrics: str | Sequence[str] = "all",
    *,
    settings: Settings | None = None,
    dead: NDArray[np.bool_] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    cluster: Cluster | None = None,
) -> Evaluation:
    """Measures explanation methods on a model and annotated images.

    Every metric of `METRICS` that the images' annotations allow is measured on the same maps; altered
    images of all methods and metrics share batches, and none is run twice. Memory is bounded by the
    engine's batch size.

    Args:
        engine: The model, with its preprocessing.
        data: A data set, or a folder that `camrt.evaluation.datasets.read_dataset` reads.
        methods: Names, with options if need be ("pixab:denominators=N1"), or method objects; "all" for all
            that the model admits, within some thousand passes an image: the results say which are left out.
        metrics: Names, or "all": then those that cannot be measured, or cost many explanations more, are left
            out, and the results say why.
        settings: How; see `Settings`.
        dead: bool (H, W), pixels that cannot influence the model, for μ.
        out: Folder for results.json, the Parquet tables and the report; None keeps all in memory.
        resume: Go on with a run in that folder, if there is one.
        overwrite: Replace a run in that folder.
        progress: Called with how many images are done, as a fraction, and how many there are.
        cluster: Measure on a Ray cluster (`camrt.engine.runs.actors.Cluster`) whose machines see the model
            and the images by the same paths; the results are the same, byte for byte, where its processors
            compute alike. None measures in this process.

    Returns:
        The figures, and the rows behind them.

    Raises:
        InputError: Metrics that the images do not allow, a preprocessing that is not known, or a folder
            that holds another run or is being written by one.
        StorageError: Results cannot be written; what was measured before is kept.
        MethodError: A method that this model does not admit.
        DataError: No images.
        BackendError: There is no such cluster, or Ray fails.
    """
    chosen = Settings() if settings is None else settings
    check_arguments(chosen, data, dead, out, engine.preprocessing, goes_on=resume or overwrite)
    preprocessing = engine.preprocessing
    if preprocessing is None:
        raise InputError("the model's preprocessing is not known: load it with camrt.load(preprocessing=...)")
    if engine.interface.activation == "none":
        raise InputError(f"metrics are of probabilities: {NO_PROBABILITIES}")
    built = parse_methods(methods, chosen.postprocess)
    omitted = find_unsuitable(built, engine) if methods in ("all", ["all"], ("all",)) else {}
    built = {name: method for name, method in built.items() if name not in omitted}
    parse_metrics(metrics)  # refuses unknown ones before anything is read
    if not isinstance(data, Dataset):
        data = read_dataset(data, labels=engine.labels, num_classes=engine.num_classes)
    if not data.samples:
        raise DataError(f"{data.root}: no image to measure on")
    samples, found_before = draw_samples(data.samples, chosen), len(data.samples)
    names, left_out = select_metrics(metrics, samples, dead)
    left_out |= omitted
    empty = engine.predict(np.zeros((1, preprocessing.channels, *preprocessing.size), np.float32))[0]
    plan = MeasurementPlan(engine, built, names, chosen, preprocessing.size, empty, dead)
    fingerprint = run_fingerprint(plan, data, samples, preprocessing)
    data = replace(data, samples=samples)
    measurer = BlockMeasurer(plan, preprocessing, data.root, data.inclusive_boxes)
    blocks = ImageBlocks(samples, min(BLOCK, engine.batch_size))
    told = {"images": found_before, "left_out": left_out}
    if out is None:
        kept = BlocksInMemory()
        measure_blocks(measurer, blocks, kept, progress, cluster)
        return summarise_blocks(plan, data, fingerprint, kept, told)
    with lock_folder(Path(out)):
        parts = BlockStore(Path(out), fingerprint, resume=resume, overwrite=overwrite)
        results = parts.completed
        if results is None:
            measure_blocks(measurer, blocks, parts, progress, cluster)
            evaluation = summarise_blocks(plan, data, fingerprint, parts, told)
            write_results(evaluation, parts)
        else:
            for number, held in blocks:
                parts.check_unchanged(number, hash_files(held, data.root))
            evaluation = Evaluation(results, parts, plan, data)
        parts.clear()
        return replace(evaluation, blocks=FinishedTables(Path(out), evaluation.results["passes"]))


def summarise_blocks(
    plan: MeasurementPlan,
    data: Dataset,
    fingerprint: Mapping[str, Any],
    blocks: MeasuredBlocks,
    told: Mapping[str, Any],
) -> Evaluation:
    """What an evaluation found, of all its blocks.

    Args:
        plan: What was measured.
        data: The images.
        fingerprint: What the results depend on.
        blocks: The rows.
        told: How many "images" there were to draw from, and what was "left_out".

    Raises:
        DataError: No image could be read.
    """
    found = summarise(plan, blocks)
    if not found.images:
        raise DataError(
            f"none of the {len(data.samples)} images could be read: {'; '.join(found.problems[:3])}"
        )
    contents = [pair for number in sorted(blocks.contents) for pair in blocks.contents[number]]
    results = {
        **fingerprint,
        "data": {**fingerprint["data"], "contents": combined_digest(contents)},
        "images": found.count_images(told["images"], len(data.samples)),
        "left_out": told["left_out"],
        "notes": list(data.notes),
        "problems": [*map(str, data.problems), *found.problems],
        "alike": found.find_equal_methods(),
        "passes": found.passes + 1,
        "further_explanations": plan.further_explanations,
        "figures": found.figures(),
    }
    return Evaluation(results, blocks, plan, data, found.disagreement)


MOST_PASSES = 2500  # an image, of a method that nobody has named; Score-CAM on 2048 channels is one


def find_unsuitable(methods: Mapping[str, Method], engine: Engine) -> dict[str, str]:
    """Of all methods, those that a model does not admit or that take very many passes, and why."""
    found = {}
    for name, method in methods.items():
        counts, why = cost_row(type(method), engine)
        if counts[1] == "-":
            found[name] = why
        elif int(counts[1]) + int(counts[3]) > MOST_PASSES:
            found[name] = f"takes {counts[1]} passes an image: it is measured where it is named"
    return found


def check_arguments(
    settings: object,
    data: object,
    dead: object,
    out: object,
    preprocessing: Preprocessing | None,
    *,
    goes_on: bool,
) -> None:
    """Refuses arguments of another type, and those that mean nothing together.

    Raises:
        InputError: There is one.
    """
    if not isinstance(settings, Settings):
        form = ", ".join(f"{name}=..." for name in settings) if isinstance(settings, Mapping) else "limit=..."
        raise InputError(f"settings={settings!r:.80} must be camrt.evaluation.Settings({form})")
    if not isinstance(data, (str, os.PathLike, Dataset)):
        raise InputError(f"data={data!r:.80} must be a folder, or a camrt.evaluation.datasets.Dataset")
    if out is not None and not isinstance(out, (str, os.PathLike)):
        raise InputError(f"out={out!r:.80} must be a folder")
    if out is None and goes_on:
        raise InputError("resume= and overwrite= are about a folder of results: name it by out=")
    if dead is None or preprocessing is None:
        return
    if not isinstance(dead, np.ndarray) or dead.dtype != bool or dead.shape != preprocessing.size:
        found = f"{dead.dtype} {dead.shape}" if isinstance(dead, np.ndarray) else type(dead).__name__
        raise InputError(
            f"dead= must be a bool array {preprocessing.size}, as the model's input, got {found}"
        )


def hash_annotations(samples: Sequence[Sample], root: Path) -> str:
    """A hash of what images are annotated with, wherever they lie."""
    digest = hashlib.sha256()
    for sample in samples:
        text = repr((sample.name, sample.label, sample.boxes, sample.masks))
        digest.update(text.replace(str(root), "").encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def draw_samples(samples: Sequence[Sample], settings: Settings) -> tuple[Sample, ...]:
    """The samples to measure: all, or `limit` of them, drawn with the seed, in their order."""
    if settings.limit is None or settings.limit >= len(samples):
        return tuple(samples)
    places = np.random.default_rng(settings.seed).choice(len(samples), settings.limit, replace=False)
    return tuple(samples[place] for place in sorted(places.tolist()))


def select_metrics(
    metrics: str | Sequence[str], samples: Sequence[Sample], dead: NDArray[np.bool_] | None
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The metrics that the images allow, and why the others are left out.

    Raises:
        InputError: One was asked for by name and cannot be measured, or none can.
    """
    names = parse_metrics(metrics)
    missing = {
        "label": None if any(sample.label is not None for sample in samples) else "no image has a class",
        "boxes": None if any(sample.boxes for sample in samples) else "no image has boxes",
        "masks": None if any(sample.masks for sample in samples) else "no image has masks",
        "dead zone": None
        if dead is not None and dead.any()
        else "the model's dead zone was not given, or is empty",
    }
    missing["objects"] = missing["boxes"] and missing["masks"] and "no image has boxes or masks"
    left_out = {name: why for name in names if (why := missing.get(METRICS[name].needs))}
    everything = metrics in ("all", ["all"], ("all",))
    if everything:
        left_out |= {name: why for name in names if (why := METRICS[name].only_named)}
    if left_out and not everything:
        raise InputError("; ".join(f"{name} cannot be measured: {why}" for name, why in left_out.items()))
    kept = tuple(name for name in names if name not in left_out)
    if not kept:
        raise InputError("no metric can be measured: " + "; ".join(left_out.values()))
    return kept, left_out


def run_fingerprint(
    plan: MeasurementPlan, data: Dataset, samples: Sequence[Sample], preprocessing: Preprocessing
) -> dict[str, Any]:
    """Everything that the results depend on."""
    engine = plan.engine
    return {
        "versions": package_versions(),
        "model": model_identity(engine, preprocessing),
        "data": {"kind": data.kind, "root": data.root.name, "sha256": hash_annotations(samples, data.root)},
        "methods": {name: repr(method) for name, method in plan.methods.items()},
        "metrics": list(plan.metrics),
        "settings": json.loads(json.dumps(asdict(plan.settings))),
        "dead_zone": None
        if plan.dead is None
        else hashlib.sha256(np.packbits(plan.dead).tobytes()).hexdigest(),
    }


def write_results(evaluation: Evaluation, parts: BlockStore) -> None:
    """Writes results.json, the tables and the report."""
    from camrt.evaluation.escaping import to_json_bytes
    from camrt.evaluation.suite.report import write_report

    folder = parts.folder.parent
    parts.join()
    write_report(evaluation, folder)
    # Last, since it says that the run came to its end.
    write_atomic(folder / RESULTS, to_json_bytes(evaluation.results))
