"""The tables by name: what each needs, and the function that measures it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from camrt.engine.run_folders import RunFolder, held
from camrt.errors import InputError
from camrt.evaluation.reproduce.accuracy import accuracy
from camrt.evaluation.reproduce.boxes import boxes
from camrt.evaluation.reproduce.calm import cues, localisation, removal
from camrt.evaluation.reproduce.options import Options
from camrt.evaluation.reproduce.paper_tables import PublishedTable
from camrt.evaluation.reproduce.pixab import by_suite, dependence, objects, overlap, patches
from camrt.evaluation.reproduce.published import PUBLISHED
from camrt.evaluation.reproduce.rows import Reproduced
from camrt.evaluation.reproduce.running import Run
from camrt.evaluation.reproduce.walls import dead_zone
from camrt.evaluation.reproduce.writing import FILES, write_table

if TYPE_CHECKING:
    from camrt.engine.session import Engine

__all__ = ["TABLES", "Task", "find_task", "reproduce"]


@dataclass(frozen=True)
class Task:
    """How a table is measured.

    Attributes:
        published: The table.
        needs: What the model and the pictures must have, in a few words.
        measure: Measures it.
    """

    published: PublishedTable
    needs: str
    measure: Callable[[Run, PublishedTable], Reproduced]


_PATCHES = "a model with gradients and at least 10 classes; pictures for DAP1"
_ZEROS = "a model with gradients and at least 10 classes; no pictures"
_OBJECTS = (
    "boxes for MaxBoxAccV2, masks for PxAP; a CALM model for the rows of CALM, a linear layer after pooling "
    "for those of CAM"
)
_MEASURES: dict[str, tuple[str, Callable[[Run, PublishedTable], Reproduced]]] = {
    "calm-1": (
        "the folder of CUB-200-2011 with attributes, parts and segmentations; a model of its classes",
        cues,
    ),
    "calm-2": ("pictures with classes", accuracy),
    "calm-3": (_OBJECTS, localisation),
    "calm-5": (_OBJECTS, localisation),
    "calm-figure-5": ("pictures with classes", removal),
    "walls": (
        "a model that cannot see part of its pictures; a folder for each class, to stack pictures of",
        dead_zone,
    ),
    "pixab-6": (_PATCHES, patches),
    "pixab-3": ("pictures", by_suite),
    "pixab-4": ("pictures", by_suite),
    "pixab-2": (_ZEROS, dependence),
    "pixab-1": (_ZEROS, overlap),
    "pixab-5": ("pictures with boxes", objects),
    **{f"pixab-{number}": (_PATCHES, boxes) for number in (7, 8, 9, 10)},
}

TABLES: Mapping[str, Task] = MappingProxyType(
    {name: Task(table, *_MEASURES[name]) for name, table in PUBLISHED.items()}
)
"""The tables by name, in the order of the papers."""


def find_task(name: str) -> Task:
    """The table of that name.

    Raises:
        InputError: There is none.
    """
    if name.lower() in TABLES:
        return TABLES[name.lower()]
    raise InputError(f"there is no table {name!r}: {', '.join(TABLES)}")


def reproduce(
    table: str,
    engine: Engine,
    data: str | Path | None = None,
    *,
    options: Options | None = None,
    out: str | Path | None = None,
    tell: Callable[[str, float, int], None] | None = None,
    run: Run | None = None,
) -> Reproduced:
    """Measures what a published table measures, on another model and other pictures.

    What the model or the pictures do not allow is a row, or a column, with the reason why. Figures of other
    networks and pictures can be compared by their order, not by their value.

    Args:
        table: A name of `TABLES`.
        engine: The model, with its preprocessing.
        data: Folder of pictures that `camrt.evaluation.datasets.read_dataset` reads, or CUB-200-2011's.
        options: How; see `Options`.
        out: Folder for results: in it, one named after the table gets `table.md` and `results.json`, which
            are the same for the same seed; and `adversarial` the adversarial pictures, which are taken up
            again. None keeps all in memory.
        tell: Called with what is being done, how much of it is, and how much there is (0 if unknown).
        run: What was made for other tables, to be shared; then `engine` to `tell` are its.

    Returns:
        Published and measured figures.

    Raises:
        InputError: An unknown table, an option that does not fit, or a folder that holds another run or is
            being written by one.
        StorageError: Results cannot be written; what was measured before is kept.
        MethodError: An unknown method was asked for.
        DataError: A folder that cannot be read.
    """
    task = find_task(table)
    if run is None:
        place = None if data is None else Path(data)
        run = Run(engine, place, options or Options(), None if out is None else Path(out))
        if tell is not None:
            run.tell = tell
    _ = run.preprocessing  # refuses a model without one before anything is measured
    if run.out is None:
        return task.measure(run, task.published)
    place = run.out / task.published.name
    asked = run.options
    with held(place):
        run.folder = RunFolder(place, "table", run.facts(), resume=asked.resume, overwrite=asked.overwrite)
        run.folder.check(FILES)
        found = task.measure(run, task.published)
        run.folder.claim(FILES)
        write_table(found, place)
    return found
