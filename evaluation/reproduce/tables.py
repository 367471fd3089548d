"""A published table, measured on a model and pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from camrt.engine.run_folders import RunFolder, held
from camrt.errors import InputError
from camrt.evaluation.reproduce.catalogue import find_entries, task_of
from camrt.evaluation.reproduce.options import Options
from camrt.evaluation.reproduce.rows import Reproduced
from camrt.evaluation.reproduce.running import Run
from camrt.evaluation.reproduce.tasks import TABLES, Task
from camrt.evaluation.reproduce.writing import FILES, write_table

if TYPE_CHECKING:
    from camrt.engine.session import Engine

__all__ = ["TABLES", "Task", "find_task", "reproduce"]


def find_task(name: str) -> Task:
    """How the table of that name is measured.

    Raises:
        InputError: There is none, or several, or another command measures it.
    """
    entry, *others = find_entries(name)
    if others:
        raise InputError(f"{name} are several tables: {entry.name}, {', '.join(one.name for one in others)}")
    return task_of(entry)


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
