"""A STACK-MIX set as `camrt data stack-mix` leaves it.

    CLASS/stack_mix.png     the upper rows of one image over the lower rows of another
    images.csv            the class of each, and the boxes of its upper object
    manifest.json           which two files each is made of

`camrt evaluate` reads the folder as it stands. The lower objects have no boxes: nothing there is to be found.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from camrt.engine.images.read import list_class_folders, read_image
from camrt.engine.run_folder import DATA_SET, JOURNAL_FILE, LOCK_FILE, RUN_FILE, RunFolder, lock_folder
from camrt.errors import DataError
from camrt.evaluation.datasets import read_dataset
from camrt.evaluation.datasets.annotation_transforms import to_input_boxes
from camrt.evaluation.datasets.format_detection import detect_format
from camrt.evaluation.dead_zone.stack_mix import (
    StackedImages,
    StackMixFiles,
    draw_stacks,
    stack_preprocessing,
)
from camrt.export.io.atomic_files import storage_errors, write_atomic

__all__ = ["TABLE_FILE", "StackMixDataset", "write_stack_mix_dataset"]

TABLE_FILE: Final = "images.csv"
COLUMNS: Final = ("file", "label", "x0", "y0", "x1", "y1", "top", "bottom")

Boxes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StackMixDataset:
    """A set that was written.

    Attributes:
        stacks: Its images.
        boxed: How many of them have a box of their upper object.
        problems: What was wrong with the annotations.
    """

    stacks: StackMixFiles
    boxed: int
    problems: tuple[str, ...]


def write_stack_mix_dataset(
    folder: Path,
    out: Path,
    *,
    annotations: Path | None = None,
    overwrite: bool = False,
    dead_rows: int,
    size: int,
    classes: int | Sequence[str] | None = None,
    first: int | None = None,
    seed: int = 0,
) -> StackMixDataset:
    """Draws a set of stacked images and writes it, with a table of classes and boxes.

    Args:
        folder: A folder for each class, with images at any depth.
        out: Where the set goes: a folder that is empty or not there yet.
        annotations: Boxes of the images, as `camrt.evaluation.datasets.read_dataset` takes them; None takes
            those in the folder, if there are some.
        overwrite: Replace the set that is in `out`, if one is: its files alone are removed.
        dead_rows: As for `camrt.evaluation.dead_zone.stack_mix.draw_stacks`.
        size: As there.
        classes: As there.
        first: As there.
        seed: As there.

    Raises:
        InputError: An option out of range, or a folder that is being written by another run.
        DataError: Classes without images, annotations that cannot be read, or something else in `out`.
        StorageError: A file cannot be written.
    """
    if not overwrite and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            f"{out} is there already and not an empty folder: replace the set in it (--overwrite), or choose "
            "another"
        )
    stacks = draw_stacks(folder, dead_rows=dead_rows, size=size, classes=classes, first=first, seed=seed)
    boxes, problems = find_upper_boxes(folder, annotations, stacks, size, size - dead_rows)
    with lock_folder(out), storage_errors(out):
        identity = {name: stacks.manifest[name] for name in ("source", "seed", "size", "dead_rows")}
        noted = RunFolder(out, DATA_SET, identity, resume=False, overwrite=overwrite)
        own = {RUN_FILE, JOURNAL_FILE, LOCK_FILE, *noted.replaced_files}
        found = (path.relative_to(out).as_posix() for path in sorted(out.rglob("*")) if not path.is_dir())
        if stray := next((name for name in found if name not in own), None):
            raise DataError(
                f"{out} holds {stray!r}, which is no part of a set: move it away, or choose another"
            )
        noted.claim([*stacks.names, TABLE_FILE])
        write_atomic(out / TABLE_FILE, format_table(stacks, boxes).encode("utf-8", "surrogateescape"))
        written = stacks.write(out)
    return StackMixDataset(written, len(boxes), problems)


def find_upper_boxes(
    folder: Path, annotations: Path | None, stacks: StackedImages, size: int, rows: int
) -> tuple[Mapping[str, Boxes], tuple[str, ...]]:
    """The boxes of upper objects in the stacked images, and what was wrong with the annotations.

    Args:
        folder: The images' folder.
        annotations: Their boxes; None for those in the folder, if there are some.
        stacks: The stacked images.
        size: Their side.
        rows: How many rows are the upper image's; boxes end there.

    Returns:
        By class, half-open (n, 4) (x0, y0, x1, y1) in pixels of the stacked image.

    Raises:
        DataError: The annotations cannot be read.
        ImageError: An image cannot be read any more.
    """
    if detect_format(folder, annotations, None)[0] == "folder":
        return {}, ()
    names = list_class_folders(folder)
    found = read_dataset(folder, annotations=annotations, labels=names, num_classes=len(names))
    wanted = {(folder / note["top"]).resolve(): str(note["class"]) for note in stacks.notes}
    boxes: dict[str, Boxes] = {}
    for sample in found.samples:
        name = wanted.get(sample.path.resolve())
        if name is None:
            continue
        own = [
            (box.x0, box.y0, box.x1 + found.inclusive_boxes, box.y1 + found.inclusive_boxes)
            for box in sample.boxes
            if box.label in (None, names.index(name))
        ]
        image = read_image(sample.path)
        placed = to_input_boxes(
            np.array(own, np.float64), (image.height, image.width), stack_preprocessing(size)
        )
        seen = placed[placed[:, 0] < rows]
        if len(seen):
            boxes[name] = np.minimum(seen, [rows, size, rows, size])[:, [1, 0, 3, 2]]
    return boxes, tuple(map(str, found.problems))


def format_table(stacks: StackedImages, boxes: Mapping[str, Boxes]) -> str:
    """The text of the table: a row a box, and one an image without boxes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for note in stacks.notes:
        own = boxes.get(note["class"])
        for edges in [("", "", "", "")] if own is None else own.tolist():
            writer.writerow([note["file"], note["class"], *edges, note["top"], note["bottom"]])
    return text.getvalue()
