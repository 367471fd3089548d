"""How well the maps of a run find the objects of validation images: what CALM's search chooses by.

The maps are those that the paper's localisation has (specification C3 to C5): of the image's true class,
CAM's or CALM's joint one, each stretched from its minimum to its maximum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

import camrt
from camrt.engine.methods import make_method
from camrt.errors import DataError
from camrt.evaluation.datasets import Dataset, read_dataset
from camrt.evaluation.suite import Settings, evaluate
from camrt.training.runs import load_run
from camrt.training.splits import Split

__all__ = ["measure_localisation", "select_annotated"]


def select_annotated(root: Path, validation: Split, annotations: Path | None) -> Dataset:
    """The validation images that have boxes or masks.

    Args:
        root: The folder that names in the annotations are relative to.
        validation: The images.
        annotations: As for `camrt.evaluation.datasets.read_dataset`.

    Raises:
        DataError: The annotations cannot be read, or none is of a validation image.
    """
    found = read_dataset(
        root, annotations=annotations, labels=validation.labels, num_classes=len(validation.labels)
    )
    classes = {
        path.resolve(): int(label) for path, label in zip(validation.files, validation.classes, strict=True)
    }
    samples = tuple(
        replace(sample, label=classes[sample.path.resolve()] if sample.label is None else sample.label)
        for sample in found.samples
        if (sample.boxes or sample.masks) and sample.path.resolve() in classes
    )
    if not samples:
        said = f" ({'; '.join(str(problem) for problem in found.problems[:3])})" if found.problems else ""
        raise DataError(
            f"none of {len(validation)} validation images has boxes or masks in {annotations or root}{said}"
            ": say where they are (annotations), or choose by val_top1 or val_loss, which need none"
        )
    return replace(found, samples=samples)


def measure_localisation(
    run: Path, objects: Dataset, metrics: Sequence[str], batch_size: int, accelerator: str
) -> dict[str, float]:
    """MaxBoxAccV2 and PxAP of a run's maps, in per cent, where they are defined.

    Args:
        run: The run's folder.
        objects: Images with boxes or masks.
        metrics: "maxboxaccv2", "pxap".
        batch_size: Images run at once.
        accelerator: "cpu" for the CPU; any other for a GPU of CUDA's, where there is one.

    Raises:
        TrainingError: There is no such run.
        DataError: No image can be read.
    """
    classifier, description = load_run(run)
    device = "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    engine = camrt.load(
        classifier.to(device),
        device=device,
        target="trunk",
        preprocessing=description.preprocessing,
        labels=description.labels,
        batch_size=batch_size,
    )
    method = (
        make_method("calm", {})
        if description.head == "calm"
        else make_method("cam", {"normalisation": "minmax"})
    )
    found = evaluate(engine, objects, {"maps": method}, list(metrics), settings=Settings(examples=0))
    figures = found.figures["maps"]
    return {name: float(value) for name in metrics if (value := figures[name]["value"]) is not None}
