"""A STACK-MIX set as `camrt data stack-mix` leaves it.

    CLASS/stack_mix.png     the upper rows of one picture over the lower rows of another
    pictures.csv            the class of each, and the boxes of its upper object
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

from camrt.engine.pictures import read_picture
from camrt.engine.run_folders import DESCRIPTION, LOCK, WRITTEN, RunFolder, held
from camrt.errors import DataError
from camrt.evaluation.datasets import read_dataset
from camrt.evaluation.datasets.recognising import recognise
from camrt.evaluation.placing import pixel_boxes
from camrt.evaluation.walls.stack_mix import StackMix, Stacks, draw_stacks, shown
from camrt.export.files import storage_errors, write_whole

__all__ = ["TABLE", "StackMixSet", "make_stack_mix"]

TABLE: Final = "pictures.csv"
COLUMNS: Final = ("file", "label", "x0", "y0", "x1", "y1", "top", "bottom")

Boxes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StackMixSet:
    """A set that was written.

    Attributes:
        stacks: Its pictures.
        boxed: How many of them have a box of their upper object.
        problems: What was wrong with the annotations.
    """

    stacks: StackMix
    boxed: int
    problems: tuple[str, ...]


def make_stack_mix(
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
) -> StackMixSet:
    """Draws a set of stacked pictures and writes it, with a table of classes and boxes.

    Args:
        folder: A folder for each class, with pictures at any depth.
        out: Where the set goes: a folder that is empty or not there yet.
        annotations: Boxes of the pictures, as `camrt.evaluation.datasets.read_dataset` takes them; None takes
            those in the folder, if there are some.
        overwrite: Replace the set that is in `out`, if one is: its files alone are removed.
        dead_rows: As for `camrt.evaluation.walls.stack_mix.draw_stacks`.
        size: As there.
        classes: As there.
        first: As there.
        seed: As there.

    Raises:
        InputError: An option out of range, or a folder that is being written by another run.
        DataError: Classes without pictures, annotations that cannot be read, or something else in `out`.
        StorageError: A file cannot be written.
    """
    if not overwrite and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            f"{out} is there already and not an empty folder: replace the set in it (--overwrite), or choose "
            "another"
        )
    stacks = draw_stacks(folder, dead_rows=dead_rows, size=size, classes=classes, first=first, seed=seed)
    boxes, problems = boxes_of(folder, annotations, stacks, size, size - dead_rows)
    with held(out), storage_errors(out):
        identity = {name: stacks.manifest[name] for name in ("source", "seed", "size", "dead_rows")}
        noted = RunFolder(out, "stack-mix", identity, resume=False, overwrite=overwrite)
        own = {DESCRIPTION, WRITTEN, LOCK, *noted.former}
        found = (path.relative_to(out).as_posix() for path in sorted(out.rglob("*")) if not path.is_dir())
        if stray := next((name for name in found if name not in own), None):
            raise DataError(
                f"{out} holds {stray!r}, which is no part of a set: move it away, or choose another"
            )
        noted.claim([*stacks.names, TABLE])
        write_whole(out / TABLE, table(stacks, boxes).encode("utf-8", "surrogateescape"))
        written = stacks.write(out)
    return StackMixSet(written, len(boxes), problems)


def boxes_of(
    folder: Path, annotations: Path | None, stacks: Stacks, size: int, rows: int
) -> tuple[Mapping[str, Boxes], tuple[str, ...]]:
    """The boxes of upper objects in the stacked pictures, and what was wrong with the annotations.

    Args:
        folder: The pictures' folder.
        annotations: Their boxes; None for those in the folder, if there are some.
        stacks: The stacked pictures.
        size: Their side.
        rows: How many rows are the upper picture's; boxes end there.

    Returns:
        By class, half-open (n, 4) (x0, y0, x1, y1) in pixels of the stacked picture.

    Raises:
        DataError: The annotations cannot be read.
        PictureError: A picture cannot be read any more.
    """
    if recognise(folder, annotations, None)[0] == "folder":
        return {}, ()
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
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
        picture = read_picture(sample.path)
        placed = pixel_boxes(np.array(own, np.float64), (picture.height, picture.width), shown(size))
        seen = placed[placed[:, 0] < rows]
        if len(seen):
            boxes[name] = np.minimum(seen, [rows, size, rows, size])[:, [1, 0, 3, 2]]
    return boxes, tuple(map(str, found.problems))


def table(stacks: Stacks, boxes: Mapping[str, Boxes]) -> str:
    """The text of the table: a row a box, and one a picture without boxes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for note in stacks.notes:
        own = boxes.get(note["class"])
        for edges in [("", "", "", "")] if own is None else own.tolist():
            writer.writerow([note["file"], note["class"], *edges, note["top"], note["bottom"]])
    return text.getvalue()
