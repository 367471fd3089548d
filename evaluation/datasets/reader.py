"""Reads a data set of any supported annotation format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from camrt.errors import DataError, InputError
from camrt.evaluation.datasets.annotation_checks import AnnotationChecker
from camrt.evaluation.datasets.class_folders import read_class_folders
from camrt.evaluation.datasets.class_index import ClassIndex
from camrt.evaluation.datasets.coco import read_coco
from camrt.evaluation.datasets.csv_table import read_csv
from camrt.evaluation.datasets.format_detection import detect_format
from camrt.evaluation.datasets.mask_folder import read_mask_folder
from camrt.evaluation.datasets.samples import Dataset, Sample
from camrt.evaluation.datasets.voc import read_voc
from camrt.evaluation.datasets.wsol import read_wsol

__all__ = ["read_dataset"]


def read_dataset(
    root: str | os.PathLike[str],
    *,
    annotations: str | os.PathLike[str] | None = None,
    kind: str | None = None,
    labels: Sequence[str] | None,
    num_classes: int,
    difficult: bool = False,
) -> Dataset:
    """Reads annotated images in any of the known formats.

    The headers of all images are read, and all PNG masks are decoded once, so that what is wrong with them
    is known before anything is measured. Whatever is wrong with an annotation or an image is one of the
    data set's problems, with its file and line; an image keeps what is sound of its annotations, and has
    none if nothing is. Only an image that is missing or unreadable is no sample.

    Args:
        root: The folder that holds the images, and that names in the annotations are relative to.
        annotations: A JSON or CSV file, or the folder of XML files, masks or WSOL metadata; looked for in
            the root when None.
        kind: One of `camrt.evaluation.datasets.KINDS`; recognised by what is there when None.
        labels: The names of the model's classes; None where only indices are known.
        num_classes: C, how many classes the model has.
        difficult: Keep the objects that PASCAL VOC marks as difficult.

    Returns:
        Samples, problems and notes. Boxes are half-open, in pixels of the upright image, except for the
        WSOL benchmark's (see `Dataset.inclusive_boxes`).

    Raises:
        DataError: The root or the annotations are missing, cannot be listed, or are of no known kind or of
            several.
        InputError: An unknown kind, options that do not belong to it, or labels that are not one a class.
    """
    folder = Path(root)
    classes = ClassIndex(labels, num_classes)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    try:
        kind, place = detect_format(folder, None if annotations is None else Path(annotations), kind)
        if difficult and kind != "voc":
            raise InputError(f"difficult=True belongs to kind 'voc', not {kind!r}")
        intake = AnnotationChecker(folder, classes)
        return intake.build_dataset(kind, _samples(intake, kind, place, difficult))
    except OSError as error:
        raise DataError(f"{error.filename or folder}: cannot be read: {error.strerror or error}") from error


def _samples(checker: AnnotationChecker, kind: str, place: Path | None, difficult: bool) -> list[Sample]:
    if place is None:
        return read_class_folders(checker)
    if kind == "voc":
        return read_voc(checker, place, difficult=difficult)
    readers = {"csv": read_csv, "coco": read_coco, "wsol": read_wsol, "masks": read_mask_folder}
    return readers[kind](checker, place)
