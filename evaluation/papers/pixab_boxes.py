"""Pixab-CAM's tables 7 to 10: which boxes, and which perspectives, in every reading of the paper.

Whichever of the four tables is asked for, all settings are measured, since the pattern is across them
(`camrt.evaluation.papers.box_patterns`); in one run they are measured once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import ArrayLike

from camrt.evaluation.metrics.patch_tasks import PatchLocalisation
from camrt.evaluation.papers.box_ablation import BoxSetting, box_table
from camrt.evaluation.papers.box_patterns import STATEMENTS, check_all_patterns
from camrt.evaluation.papers.pixab import EXAMPLE_KINDS, facts_of, localise_patches, task_figures
from camrt.evaluation.papers.published_table import PublishedTable
from camrt.evaluation.papers.reproduced_table import MeasuredFigure, ReproducedRow, ReproducedTable
from camrt.evaluation.papers.run_state import ReproductionRun

__all__ = ["measure_boxes"]

SettingKey = tuple[str, str, str]
"""A setting's name, its reading ("" with one perspective) and its assignment."""


def measure_boxes(run: ReproductionRun, table: PublishedTable) -> ReproducedTable:
    """One of tables 7 to 10, with the pattern across them (specification E12)."""
    settings = list_settings(run)
    methods = {key: setting.method for key, setting in settings.items()}
    _, refused = run.check_methods({"pixab": next(iter(methods.values()))})
    found: dict[SettingKey, dict[str, MeasuredFigure]] = {key: {} for key in settings}
    left_out: dict[str, str] = {}
    facts, patterns = run.collect_facts(), {}
    for task in EXAMPLE_KINDS if not refused else ():
        results, why = localise_patches(run, task, list(methods.values()))
        if why:
            left_out |= {f"{task}-pg": why, f"{task}-ol": why}
            continue
        by_key = dict(zip(settings, results, strict=True))
        for key, result in by_key.items():
            found[key] |= task_figures(task, result)
        patterns[task] = check_patterns(run, by_key)
        facts[task] = facts_of(run, task)
    rows = []
    for published in table.rows:
        for key in (key for key in settings if key[0] == published.key):
            why = refused.get("pixab", "" if found[key] else "see below")
            title = ", ".join(part for part in key if part)
            rows.append(
                ReproducedRow(published, title, repr(methods[key]) if found[key] else "", found[key], why)
            )
    remarks = (
        *table.remarks,
        "N1 divides both perspectives by Y, N2 deletion by Y and preservation by Y0, N3 both by |Y − Y0|; "
        "with one perspective alone all are one map, and N1 and N3 are one wherever Y > Y0",
        *(f"({number}): {statement}" for number, statement in STATEMENTS.items()),
    )
    return ReproducedTable(
        table, tuple(rows), left_out, remarks, facts, {"patterns": patterns} if patterns else {}
    )


def list_settings(run: ReproductionRun) -> dict[SettingKey, BoxSetting]:
    """Every setting of the four tables in every reading; those with one perspective once an assignment."""
    found: dict[SettingKey, BoxSetting] = {}
    for setting in box_table(run.options.readings, run.options.assignments):
        alone = setting.perspectives != "both"
        found.setdefault((setting.name, "" if alone else setting.reading, setting.assignment), setting)
    return found


def check_patterns(run: ReproductionRun, results: Mapping[SettingKey, PatchLocalisation]) -> dict[str, Any]:
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
                    for pattern in check_all_patterns(values)
                }
    return found
