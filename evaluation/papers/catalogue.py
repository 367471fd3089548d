"""Every table and figure of the three papers: what it needs, what is printed, and what was measured here.

The one list behind `camrt reproduce` and its `--list`, and behind the papers' pages in `docs/results`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from camrt.errors import InputError
from camrt.evaluation.papers.measured import Record, read_records
from camrt.evaluation.papers.published import CALM, PIXAB, PUBLISHED, WALLS
from camrt.evaluation.papers.published_table import PublishedTable
from camrt.evaluation.papers.tasks import TABLE_TASKS, TableTask

__all__ = ["CATALOGUE", "GROUPS", "CatalogueEntry", "find_entries", "find_tasks", "task_of"]


@dataclass(frozen=True)
class CatalogueEntry:
    """A table or a figure.

    Attributes:
        name: What `camrt reproduce` calls it.
        title: What it is about.
        paper: Title and venue.
        number: As the paper counts; None where it is not known.
        needs: What must be there to measure it.
        command: How it is measured.
        printed: What the paper prints; None where it prints no figures.
        task: How `camrt reproduce` measures it; None where another command does.
        why: Why nothing was measured here; empty where something was.
    """

    name: str
    title: str
    paper: str
    number: str | None
    needs: str
    command: str
    printed: PublishedTable | None
    task: TableTask | None
    why: str = ""

    @property
    def records(self) -> tuple[Record, ...]:
        """What was measured here."""
        return read_records(self.name)

    @property
    def duration(self) -> str:
        """How long it takes here, in words."""
        timed = [record for record in self.records if record.seconds is not None]
        if not timed:
            return "not measured"
        return "; ".join(
            f"{_format_duration(record.seconds or 0)} ({record.model}, {record.machine})" for record in timed
        )

    @property
    def heading(self) -> str:
        """Number and title."""
        return f"{self.number or 'Table of unknown number'}: {self.title}"


def _format_duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


_NO_CUB = (
    "CUB-200-2011 and a model of its classes are not at hand; differences of maps, masks and precision are "
    "tested on a small folder laid out as CUB's"
)
_NO_VGG = (
    "ImageNet's weights of VGG-16 are not at hand; --model takes them as torchvision has them, and the tests "
    "run it on a small twin"
)
_WHY = {"calm-1": _NO_CUB, "pixab-figure-12": _NO_VGG}
"""Why tables of `camrt reproduce` were not measured."""


def _of_task(task: TableTask) -> CatalogueEntry:
    table = task.published
    return CatalogueEntry(
        table.name,
        table.title,
        table.paper,
        table.number,
        task.needs,
        task.command,
        table,
        task,
        _WHY.get(table.name, ""),
    )


_OTHER_COMMANDS = (
    CatalogueEntry(
        "walls-theory", "Proposition 2, Theorem 3 and the rows that the masked VGG-16 cannot see", WALLS,
        "Sections 3 and 4", "nothing: its networks are drawn", "camrt evaluate walls --theory", None, None,
    ),
    CatalogueEntry(
        "pixab-figure-9", "Guided back-propagation times the map of each of seven methods", PIXAB, "Figure 9",
        "a model with gradients, and images",
        "camrt explain MODEL.onnx IMAGES --method guided-pixab --out FOLDER", None, None,
        "the paper prints no figures: images to look at; also of guided-gradcam, guided-gradcam++, "
        "guided-xgradcam, guided-activation, guided-score and guided-ablation",
    ),
    CatalogueEntry(
        "pixab-figure-11", "Cascading randomisation: Pixab-CAM while layers are drawn anew, from the last on",
        PIXAB, "Figure 11", "a model with weights, and images",
        "camrt evaluate sanity MODEL.onnx IMAGES --methods pixab", None, None,
        "the paper prints no figures; the command prints rank correlation and SSIM with the first map",
    ),
)  # fmt: skip


def _figure_number(entry: CatalogueEntry) -> int:
    """The number of a figure; 0 of a table, since tables come first."""
    _, found, number = entry.name.partition("-figure-")
    return int(number) if found else 0


CATALOGUE: Mapping[str, CatalogueEntry] = MappingProxyType(
    {
        entry.name: entry
        for paper in (CALM, WALLS, PIXAB)
        for entry in sorted(
            (
                *(_of_task(TABLE_TASKS[name]) for name, table in PUBLISHED.items() if table.paper == paper),
                *(entry for entry in _OTHER_COMMANDS if entry.paper == paper),
            ),
            key=_figure_number,
        )
    }
)
"""All entries by name, in the order of the papers."""

GROUPS: Mapping[str, str] = MappingProxyType({"calm": CALM, "pixab": PIXAB})
"""Words that stand for all of a paper."""


def find_entries(name: str) -> tuple[CatalogueEntry, ...]:
    """The entry of that name, or all of a paper's.

    Args:
        name: Of an entry, or of `GROUPS`; in any capitals.

    Raises:
        InputError: There is none.
    """
    asked = name.lower()
    if asked in CATALOGUE:
        return (CATALOGUE[asked],)
    if asked in GROUPS:
        return tuple(entry for entry in CATALOGUE.values() if entry.paper == GROUPS[asked])
    known = ", ".join((*CATALOGUE, *GROUPS))
    raise InputError(f"there is no table {name!r}: {known}")


def task_of(entry: CatalogueEntry) -> TableTask:
    """How `camrt reproduce` measures an entry.

    Raises:
        InputError: It does not, since another command does; the message names it.
    """
    if entry.task is None:
        raise InputError(f"{entry.name} is not measured by camrt reproduce, but by: {entry.command}")
    return entry.task


def find_tasks(names: Sequence[str]) -> tuple[TableTask, ...]:
    """What `camrt reproduce` is to measure, each once; of a whole paper what it can measure.

    Args:
        names: Of entries or of `GROUPS`.

    Raises:
        InputError: There is no such name, or another command measures what was named.
    """
    found: dict[str, TableTask] = {}
    for name in names:
        entries = find_entries(name)
        whole = len(entries) > 1
        found |= {entry.name: task_of(entry) for entry in entries if entry.task is not None or not whole}
    return tuple(found.values())
