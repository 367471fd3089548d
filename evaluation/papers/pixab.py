"""The tables of "Pixab-CAM: Attend Pixel, not Channel" (ICLR 2022 submission), but for those of its boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from camrt.engine.methods import ChannelMethod, Method, make_method
from camrt.errors import CamrtError, InputError
from camrt.evaluation.metrics.channel_overlap import (
    TOP_CHANNELS,
    measure_channel_overlap,
    scaled_top_channels,
)
from camrt.evaluation.metrics.patch_tasks import (
    PatchLocalisation,
    measure_activation_dependence,
    measure_patch_localisation,
)
from camrt.evaluation.papers.calm import baseline_row
from camrt.evaluation.papers.published_table import PublishedTable
from camrt.evaluation.papers.reproduced_table import MeasuredFigure, ReproducedTable, mean_figure
from camrt.evaluation.papers.row_selection import RowSelection, select_rows, to_figure
from camrt.evaluation.papers.run_state import NO_DATA, ReproductionRun

__all__ = [
    "EXAMPLE_KINDS",
    "facts_of",
    "measure_dependence",
    "measure_objects",
    "measure_overlap",
    "measure_patches",
    "measure_with_suite",
    "prepare_examples",
    "task_figures",
]

EXAMPLE_KINDS = {"dap1": "ae1", "dap2": "ae2"}
"""The kind of adversarial images of each task."""
METHODS_AT_ONCE = 8
"""A bound on memory: the maps of a batch of images by so many methods are held at a time."""


def _select_table_rows(run: ReproductionRun, table: PublishedTable) -> RowSelection:
    return select_rows(run, table, {row.key: make_method(row.key, {}) for row in table.rows})


def measure_patches(run: ReproductionRun, table: PublishedTable) -> ReproducedTable:
    """DAP1 and DAP2: does the map of a patch's class lie on the patch (specification E4)?"""
    wanted = _select_table_rows(run, table)
    found: dict[str, dict[str, MeasuredFigure]] = {key: {} for key in wanted.methods}
    left_out: dict[str, str] = {}
    facts = run.collect_facts()
    for task in EXAMPLE_KINDS:
        results, why = localise_patches(run, task, list(wanted.methods.values()))
        if why:
            left_out |= {f"{task}-pg": why, f"{task}-ol": why}
            continue
        for key, result in zip(wanted.methods, results, strict=True):
            found[key] |= task_figures(task, result)
        facts[task] = facts_of(run, task)
    measured = {key: figures for key, figures in found.items() if figures}
    return ReproducedTable(table, wanted.build_rows(measured, "see below"), left_out, table.remarks, facts)


def localise_patches(
    run: ReproductionRun, task: str, methods: Sequence[Method]
) -> tuple[list[PatchLocalisation], str]:
    """What DAP1 or DAP2 finds of each method, or why it cannot be measured; nothing is measured twice."""
    examples = prepare_examples(run, EXAMPLE_KINDS[task])
    if isinstance(examples, str):
        return [], examples
    waiting = [method for method in dict.fromkeys(methods) if (task, repr(method)) not in run.findings]
    for start in range(0, len(waiting), METHODS_AT_ONCE):
        run.progress(f"maps of adversarial images ({task.upper()})", start, len(waiting))
        block = waiting[start : start + METHODS_AT_ONCE]
        for method, result in zip(
            block,
            measure_patch_localisation(
                run.engine, run.load_or_build_examples(EXAMPLE_KINDS[task]), block
            ).results,
            strict=True,
        ):
            run.findings[task, repr(method)] = result
    return [run.findings[task, repr(method)] for method in methods], ""


def prepare_examples(run: ReproductionRun, kind: str) -> str | None:
    """Makes adversarial images; answers why they cannot be made, if so."""
    if kind == "ae1" and run.data is None:
        return NO_DATA
    try:
        run.load_or_build_examples(kind)
    except CamrtError as error:
        return f"there are no adversarial images: {error}"
    return None


def task_figures(task: str, result: PatchLocalisation) -> dict[str, MeasuredFigure]:
    """PG and OL in per cent."""
    empty = {"empty maps": result.empty}
    figures = {"pg": mean_figure(result.hits, 100), "ol": mean_figure(result.shares, 100)}
    return {
        f"{task}-{name}": MeasuredFigure(figure.value, figure.error, figure.counted, figure.undefined, empty)
        for name, figure in figures.items()
    }


def facts_of(run: ReproductionRun, task: str) -> dict[str, float | int]:
    """What became of the adversarial images of a task."""
    made = run.load_or_build_examples(EXAMPLE_KINDS.get(task, task))
    size = made.images.shape[2] * made.images.shape[3]
    areas = [(r1 - r0) * (c1 - c0) for ((r0, c0, r1, c1),) in made.target_boxes]
    return {
        "images": len(made),
        "left out": made.left_out,
        "attacks": made.attempts,
        "failed attacks": made.failures,
        "unreadable images": len(run.unreadable) if made.kind == "ae1" else 0,
        "chance, %": 100 * float(np.mean(areas)) / size,
    }


def measure_with_suite(run: ReproductionRun, table: PublishedTable) -> ReproducedTable:
    """Average drop, increase and compactness; deletion and insertion (specification E5 and E6)."""
    wanted = _select_table_rows(run, table)
    if run.data is None or not wanted.methods:
        why = NO_DATA if run.data is None else ""
        return ReproducedTable(table, wanted.build_rows({}, why), {}, table.remarks, run.collect_facts())
    metrics = [column.name for column in table.columns]
    evaluation = run.evaluate_methods(table.name, wanted.methods, metrics)
    found = {
        key: {name: to_figure(evaluation.figures[key].get(name)) for name in metrics}
        for key in wanted.methods
    }
    facts = run.collect_facts() | {"images": evaluation.results["images"]}
    return ReproducedTable(table, wanted.build_rows(found), {}, table.remarks, facts)


def measure_objects(run: ReproductionRun, table: PublishedTable) -> ReproducedTable:
    """Object localisation on boxes that people drew (specification E9)."""
    wanted = _select_table_rows(run, table)
    why = NO_DATA if run.data is None else ""
    if not why and not any(sample.boxes for sample in run.dataset.samples):
        why = "no image has boxes"
    if why or not wanted.methods:
        return ReproducedTable(table, wanted.build_rows({}, why), {}, table.remarks, run.collect_facts())
    evaluation = run.evaluate_methods(table.name, wanted.methods, ["energy"])
    found = {key: {"energy": to_figure(evaluation.figures[key].get("energy"))} for key in wanted.methods}
    share = evaluation.results["images"]["object_share"]
    remarks = (*table.remarks, f"on average the boxes are {100 * share:.2f} % of the image")
    rows = (*wanted.build_rows(found), *baseline_row(evaluation.figures, ["energy"]))
    return ReproducedTable(
        table, rows, {}, remarks, run.collect_facts() | {"images": evaluation.results["images"]}
    )


def measure_dependence(run: ReproductionRun, table: PublishedTable) -> ReproducedTable:
    """DOA: how far is a map from Activation-CAM's (specification E7)?"""
    wanted, kind = _select_table_rows(run, table), "ae2-four"
    why = prepare_examples(run, kind) or ""
    if why or not wanted.methods:
        return ReproducedTable(table, wanted.build_rows({}, why), {}, table.remarks, run.collect_facts())
    examples, found, reasons = run.load_or_build_examples(kind), {}, dict(wanted.why)
    for number, (key, method) in enumerate(wanted.methods.items()):
        run.progress(f"maps of adversarial images: {key}", number, len(wanted.methods))
        try:
            (measured,) = measure_activation_dependence(run.engine, examples, [method])
        except InputError as error:  # its maps lie on other cells than the activation's
            reasons[key] = str(error)
            continue
        found[key] = {"doa": mean_figure(measured.distances)}
    rows = RowSelection(wanted.rows, wanted.methods, reasons).build_rows(found)
    return ReproducedTable(table, rows, {}, table.remarks, run.collect_facts() | {kind: facts_of(run, kind)})


def measure_overlap(run: ReproductionRun, table: PublishedTable) -> ReproducedTable:
    """COP: do the channels that matter for a class see another class's patch (specification E8)?"""
    wanted, kind = _select_table_rows(run, table), "ae2-four"
    reasons = dict(wanted.why) | {
        key: "it does not weight channels as wholes"
        for key, method in wanted.methods.items()
        if not isinstance(method, ChannelMethod)
    }
    several = len(run.engine.cuts) > 1
    why = "the model is cut at several targets" if several else prepare_examples(run, kind) or ""
    remarks = table.remarks
    if not several:
        remarks += choose_top_channels(run)[1]
    if why:
        rows = RowSelection(wanted.rows, wanted.methods, reasons).build_rows({}, why)
        return ReproducedTable(table, rows, {}, remarks, run.collect_facts())
    found = {}
    for number, (key, method) in enumerate(wanted.methods.items()):
        if isinstance(method, ChannelMethod):
            run.progress(f"channels of adversarial images: {key}", number, len(wanted.methods))
            found[key] = overlap_figures(run, kind, method)
    rows = RowSelection(wanted.rows, wanted.methods, reasons).build_rows(found)
    return ReproducedTable(table, rows, {}, remarks, run.collect_facts() | {kind: facts_of(run, kind)})


def choose_top_channels(run: ReproductionRun) -> tuple[int, tuple[str, ...]]:
    """How many channels COP looks at, and what has to be said of that."""
    channels = run.engine.map_shape.channels
    if run.options.top_channels == "scaled":
        top = scaled_top_channels(channels)
        return top, (
            f"the highest {top} of {channels} channels are looked at, as many of them as the paper's "
            f"{TOP_CHANNELS} "
            f"of 2048; counts are of {TOP_CHANNELS}",
        )
    if channels < TOP_CHANNELS:
        return channels, (
            f"the model has only {channels} channels at the cut: all of them are looked at, not the highest "
            f"{TOP_CHANNELS} (--top-channels scaled takes as large a share as the paper)",
        )
    return TOP_CHANNELS, ()


def overlap_figures(run: ReproductionRun, kind: str, method: ChannelMethod) -> Mapping[str, MeasuredFigure]:
    """COP of one method at each level, a block of images at a time."""
    top, _ = choose_top_channels(run)
    examples, levels = run.load_or_build_examples(kind), (0.25, 0.5, 0.75)
    counts = []
    for start in range(0, len(examples), run.engine.batch_size):
        block = slice(start, start + run.engine.batch_size)
        weights, activations = run.engine.channel_weights(
            examples.images[block], method, targets=examples.targets[block]
        )
        measured = measure_channel_overlap(
            weights,
            activations,
            (examples.images.shape[2], examples.images.shape[3]),
            examples.boxes[block],
            examples.chosen[block],
            top=top,
            thresholds=levels,
        )
        counts.append(measured.counts)
    rows = np.concatenate(counts, axis=1)
    if run.options.top_channels == "scaled":
        rows *= TOP_CHANNELS / top
    return {f"{level:g}": mean_figure(row) for level, row in zip(levels, rows, strict=True)}
