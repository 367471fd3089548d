"""Pixab-CAM's tables 7 to 10: which boxes, and which perspectives, in every reading of the paper.

Whichever of the four tables is asked for, all settings are measured, since the pattern is across them
(`camrt.evaluation.reproduce.patterns`); in one run they are measured once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import ArrayLike

from camrt.evaluation.box_ablation import BoxSetting, box_table
from camrt.evaluation.patch_tasks import PatchLocalisation
from camrt.evaluation.reproduce.paper_tables import PublishedTable
from camrt.evaluation.reproduce.patterns import STATEMENTS, all_patterns
from camrt.evaluation.reproduce.pixab import TASKS, facts_of, localised, task_figures
from camrt.evaluation.reproduce.rows import Figure, Reproduced, Row
from camrt.evaluation.reproduce.running import Run

__all__ = ["boxes"]

Key = tuple[str, str, str]
"""A setting's name, its reading ("" with one perspective) and its assignment."""


def boxes(run: Run, table: PublishedTable) -> Reproduced:
    """One of tables 7 to 10, with the pattern across them (specification E12)."""
    settings = all_settings(run)
    methods = {key: setting.method for key, setting in settings.items()}
    _, refused = run.admitted({"pixab": next(iter(methods.values()))})
    found: dict[Key, dict[str, Figure]] = {key: {} for key in settings}
    left_out: dict[str, str] = {}
    facts, patterns = run.facts(), {}
    for task in TASKS if not refused else ():
        results, why = localised(run, task, list(methods.values()))
        if why:
            left_out |= {f"{task}-pg": why, f"{task}-ol": why}
            continue
        by_key = dict(zip(settings, results, strict=True))
        for key, result in by_key.items():
            found[key] |= task_figures(task, result)
        patterns[task] = patterns_of(run, by_key)
        facts[task] = facts_of(run, task)
    rows = []
    for published in table.rows:
        for key in (key for key in settings if key[0] == published.key):
            why = refused.get("pixab", "" if found[key] else "see below")
            title = ", ".join(part for part in key if part)
            rows.append(Row(published, title, repr(methods[key]) if found[key] else "", found[key], why))
    remarks = (
        *table.remarks,
        "N1 divides both perspectives by Y, N2 deletion by Y and preservation by Y0, N3 both by |Y − Y0|; "
        "with one perspective alone all are one map, and N1 and N3 are one wherever Y > Y0",
        *(f"({number}): {statement}" for number, statement in STATEMENTS.items()),
    )
    return Reproduced(
        table, tuple(rows), left_out, remarks, facts, {"patterns": patterns} if patterns else {}
    )


def all_settings(run: Run) -> dict[Key, BoxSetting]:
    """Every setting of the four tables in every reading; those with one perspective once an assignment."""
    found: dict[Key, BoxSetting] = {}
    for setting in box_table(run.options.readings, run.options.assignments):
        alone = setting.perspectives != "both"
        found.setdefault((setting.name, "" if alone else setting.reading, setting.assignment), setting)
    return found


def patterns_of(run: Run, results: Mapping[Key, PatchLocalisation]) -> dict[str, Any]:
    """For each reading, assignment and measure the three statements with their figures."""
    found: dict[str, Any] = {}
    for assignment in run.options.assignments:
        for reading in run.options.readings:
            for measure in ("OL", "PG"):

                def values(
                    shapes: str,
                    perspectives: str,
                    reading: str = reading,
                    assignment: str = assignment,
                    measure: str = measure,
                ) -> ArrayLike:
                    own = reading if perspectives == "both" else ""
                    result = results[f"{shapes} {perspectives}", own, assignment]
                    return result.shares if measure == "OL" else result.hits

                found[f"{reading}, {assignment}, {measure}"] = {
                    str(pattern.number): pattern.as_json() | {"text": pattern.text}
                    for pattern in all_patterns(values)
                }
    return found
