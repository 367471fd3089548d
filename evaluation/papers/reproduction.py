"""A published table, measured on a model and images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from camrt.engine.run_folder import RunFolder, lock_folder
from camrt.errors import InputError
from camrt.evaluation.papers.catalogue import find_entries, task_of
from camrt.evaluation.papers.options import Options
from camrt.evaluation.papers.reproduced_table import ReproducedTable
from camrt.evaluation.papers.run_state import ReproductionRun
from camrt.evaluation.papers.table_text import FILES, write_table
from camrt.evaluation.papers.tasks import TABLE_TASKS, TableTask

if TYPE_CHECKING:
    from camrt.engine.engine import Engine

__all__ = ["TABLE_TASKS", "TableTask", "find_task", "reproduce"]


def find_task(name: str) -> TableTask:
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
    progress: Callable[[str, float, int], None] | None = None,
    run: ReproductionRun | None = None,
) -> ReproducedTable:
    """Measures what a published table measures, on another model and other images.

    What the model or the images do not allow is a row, or a column, with the reason why. Figures of other
    networks and images can be compared by their order, not by their value.

    Args:
        table: A name of `TABLE_TASKS`.
        engine: The model, with its preprocessing.
        data: Folder of images that `camrt.evaluation.datasets.read_dataset` reads, or CUB-200-2011's.
        options: How; see `Options`.
        out: Folder for results: in it, one named after the table gets `table.md` and `results.json`, which
            are the same for the same seed; and `adversarial` the adversarial images, which are
            taken up again. None keeps all in memory.
        progress: Called with what is being done, how much of it is, and how much there is (0 if unknown).
        run: What was made for other tables, to be shared; then `engine` to `progress` are its.

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
        run = ReproductionRun(engine, place, options or Options(), None if out is None else Path(out))
        if progress is not None:
            run.progress = progress
    _ = run.preprocessing  # refuses a model without one before anything is measured
    if run.out is None:
        return task.measure(run, task.published)
    place = run.out / task.published.name
    asked = run.options
    with lock_folder(place):
        run.folder = RunFolder(
            place, "table", run.collect_facts(), resume=asked.resume, overwrite=asked.overwrite
        )
        run.folder.check(FILES)
        found = task.measure(run, task.published)
        run.folder.claim(FILES)
        write_table(found, place)
    return found
