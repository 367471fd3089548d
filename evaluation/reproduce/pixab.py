"""The tables of "Pixab-CAM: Attend Pixel, not Channel" (ICLR 2022 submission), but for those of its boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from camrt.engine.methods import ChannelMethod, Method, build
from camrt.errors import CamrtError, InputError
from camrt.evaluation.channel_overlap import TOP, channel_overlap, scaled_top
from camrt.evaluation.patch_tasks import PatchLocalisation, activation_dependence, adversarial_patch_task
from camrt.evaluation.reproduce.calm import baseline_row
from camrt.evaluation.reproduce.paper_tables import PublishedTable
from camrt.evaluation.reproduce.rows import Figure, Reproduced, mean_figure
from camrt.evaluation.reproduce.running import NO_DATA, Run
from camrt.evaluation.reproduce.wanting import Wanted, figure_of, wanted_rows

__all__ = [
    "TASKS",
    "by_suite",
    "dependence",
    "examples_of",
    "facts_of",
    "objects",
    "overlap",
    "patches",
    "task_figures",
]

TASKS = {"dap1": "ae1", "dap2": "ae2"}
"""The kind of adversarial pictures of each task."""
METHODS_AT_ONCE = 8
"""A bound on memory: the maps of a batch of pictures by so many methods are held at a time."""


def _wanted(run: Run, table: PublishedTable) -> Wanted:
    return wanted_rows(run, table, {row.key: build(row.key, {}) for row in table.rows})


def patches(run: Run, table: PublishedTable) -> Reproduced:
    """DAP1 and DAP2: does the map of a patch's class lie on the patch (specification E4)?"""
    wanted = _wanted(run, table)
    found: dict[str, dict[str, Figure]] = {key: {} for key in wanted.methods}
    left_out: dict[str, str] = {}
    facts = run.facts()
    for task in TASKS:
        results, why = localised(run, task, list(wanted.methods.values()))
        if why:
            left_out |= {f"{task}-pg": why, f"{task}-ol": why}
            continue
        for key, result in zip(wanted.methods, results, strict=True):
            found[key] |= task_figures(task, result)
        facts[task] = facts_of(run, task)
    measured = {key: figures for key, figures in found.items() if figures}
    return Reproduced(table, wanted.finished(measured, "see below"), left_out, table.remarks, facts)


def localised(run: Run, task: str, methods: Sequence[Method]) -> tuple[list[PatchLocalisation], str]:
    """What DAP1 or DAP2 finds of each method, or why it cannot be measured; nothing is measured twice."""
    examples = examples_of(run, TASKS[task])
    if isinstance(examples, str):
        return [], examples
    waiting = [method for method in dict.fromkeys(methods) if (task, repr(method)) not in run.findings]
    for start in range(0, len(waiting), METHODS_AT_ONCE):
        run.tell(f"maps of adversarial pictures ({task.upper()})", start, len(waiting))
        block = waiting[start : start + METHODS_AT_ONCE]
        for method, result in zip(
            block,
            adversarial_patch_task(run.engine, run.adversarial(TASKS[task]), block).results,
            strict=True,
        ):
            run.findings[task, repr(method)] = result
    return [run.findings[task, repr(method)] for method in methods], ""


def examples_of(run: Run, kind: str) -> str | None:
    """Makes adversarial pictures; answers why they cannot be made, if so."""
    if kind == "ae1" and run.data is None:
        return NO_DATA
    try:
        run.adversarial(kind)
    except CamrtError as error:
        return f"there are no adversarial pictures: {error}"
    return None


def task_figures(task: str, result: PatchLocalisation) -> dict[str, Figure]:
    """PG and OL in per cent."""
    empty = {"empty maps": result.empty}
    figures = {"pg": mean_figure(result.hits, 100), "ol": mean_figure(result.shares, 100)}
    return {
        f"{task}-{name}": Figure(figure.value, figure.error, figure.counted, figure.undefined, empty)
        for name, figure in figures.items()
    }


def facts_of(run: Run, task: str) -> dict[str, float | int]:
    """What became of the adversarial pictures of a task."""
    made = run.adversarial(TASKS.get(task, task))
    size = made.pictures.shape[2] * made.pictures.shape[3]
    areas = [(r1 - r0) * (c1 - c0) for ((r0, c0, r1, c1),) in made.target_boxes]
    return {
        "pictures": len(made),
        "left out": made.left_out,
        "attacks": made.attempts,
        "failed attacks": made.failures,
        "unreadable pictures": len(run.unreadable) if made.kind == "ae1" else 0,
        "chance, %": 100 * float(np.mean(areas)) / size,
    }


def by_suite(run: Run, table: PublishedTable) -> Reproduced:
    """Average drop, increase and compactness; deletion and insertion (specification E5 and E6)."""
    wanted = _wanted(run, table)
    if run.data is None or not wanted.methods:
        why = NO_DATA if run.data is None else ""
        return Reproduced(table, wanted.finished({}, why), {}, table.remarks, run.facts())
    metrics = [column.name for column in table.columns]
    evaluation = run.evaluated(table.name, wanted.methods, metrics)
    found = {
        key: {name: figure_of(evaluation.figures[key].get(name)) for name in metrics}
        for key in wanted.methods
    }
    facts = run.facts() | {"pictures": evaluation.results["pictures"]}
    return Reproduced(table, wanted.finished(found), {}, table.remarks, facts)


def objects(run: Run, table: PublishedTable) -> Reproduced:
    """Object localisation on boxes that people drew (specification E9)."""
    wanted = _wanted(run, table)
    why = NO_DATA if run.data is None else ""
    if not why and not any(sample.boxes for sample in run.dataset.samples):
        why = "no picture has boxes"
    if why or not wanted.methods:
        return Reproduced(table, wanted.finished({}, why), {}, table.remarks, run.facts())
    evaluation = run.evaluated(table.name, wanted.methods, ["energy"])
    found = {key: {"energy": figure_of(evaluation.figures[key].get("energy"))} for key in wanted.methods}
    share = evaluation.results["pictures"]["object_share"]
    remarks = (*table.remarks, f"on average the boxes are {100 * share:.2f} % of the picture")
    rows = (*wanted.finished(found), *baseline_row(evaluation.figures, ["energy"]))
    return Reproduced(table, rows, {}, remarks, run.facts() | {"pictures": evaluation.results["pictures"]})


def dependence(run: Run, table: PublishedTable) -> Reproduced:
    """DOA: how far is a map from Activation-CAM's (specification E7)?"""
    wanted, kind = _wanted(run, table), "ae2-four"
    why = examples_of(run, kind) or ""
    if why or not wanted.methods:
        return Reproduced(table, wanted.finished({}, why), {}, table.remarks, run.facts())
    examples, found, reasons = run.adversarial(kind), {}, dict(wanted.why)
    for number, (key, method) in enumerate(wanted.methods.items()):
        run.tell(f"maps of adversarial pictures: {key}", number, len(wanted.methods))
        try:
            (measured,) = activation_dependence(run.engine, examples, [method])
        except InputError as error:  # its maps lie on other cells than the activation's
            reasons[key] = str(error)
            continue
        found[key] = {"doa": mean_figure(measured.distances)}
    rows = Wanted(wanted.rows, wanted.methods, reasons).finished(found)
    return Reproduced(table, rows, {}, table.remarks, run.facts() | {kind: facts_of(run, kind)})


def overlap(run: Run, table: PublishedTable) -> Reproduced:
    """COP: do the channels that matter for a class see another class's patch (specification E8)?"""
    wanted, kind = _wanted(run, table), "ae2-four"
    reasons = dict(wanted.why) | {
        key: "it does not weight channels as wholes"
        for key, method in wanted.methods.items()
        if not isinstance(method, ChannelMethod)
    }
    several = len(run.engine.cuts) > 1
    why = "the model is cut at several targets" if several else examples_of(run, kind) or ""
    remarks = table.remarks
    if not several:
        remarks += top_channels(run)[1]
    if why:
        rows = Wanted(wanted.rows, wanted.methods, reasons).finished({}, why)
        return Reproduced(table, rows, {}, remarks, run.facts())
    found = {}
    for number, (key, method) in enumerate(wanted.methods.items()):
        if isinstance(method, ChannelMethod):
            run.tell(f"channels of adversarial pictures: {key}", number, len(wanted.methods))
            found[key] = overlap_figures(run, kind, method)
    rows = Wanted(wanted.rows, wanted.methods, reasons).finished(found)
    return Reproduced(table, rows, {}, remarks, run.facts() | {kind: facts_of(run, kind)})


def top_channels(run: Run) -> tuple[int, tuple[str, ...]]:
    """How many channels COP looks at, and what has to be said of that."""
    channels = run.engine.map_shape.channels
    if run.options.top_channels == "scaled":
        top = scaled_top(channels)
        return top, (
            f"the highest {top} of {channels} channels are looked at, as many of them as the paper's {TOP} "
            f"of 2048; counts are of {TOP}",
        )
    if channels < TOP:
        return channels, (
            f"the model has only {channels} channels at the cut: all of them are looked at, not the highest "
            f"{TOP} (--top-channels scaled takes as large a share as the paper)",
        )
    return TOP, ()


def overlap_figures(run: Run, kind: str, method: ChannelMethod) -> Mapping[str, Figure]:
    """COP of one method at each level, a block of pictures at a time."""
    top, _ = top_channels(run)
    examples, levels = run.adversarial(kind), (0.25, 0.5, 0.75)
    counts = []
    for start in range(0, len(examples), run.engine.batch_size):
        block = slice(start, start + run.engine.batch_size)
        weights, activations = run.engine.channel_weights(
            examples.pictures[block], method, targets=examples.targets[block]
        )
        measured = channel_overlap(
            weights,
            activations,
            (examples.pictures.shape[2], examples.pictures.shape[3]),
            examples.boxes[block],
            examples.chosen[block],
            top=top,
            thresholds=levels,
        )
        counts.append(measured.counts)
    rows = np.concatenate(counts, axis=1)
    if run.options.top_channels == "scaled":
        rows *= TOP / top
    return {f"{level:g}": mean_figure(row) for level, row in zip(levels, rows, strict=True)}
