"""The tables of "Keep CALM and Improve Visual Feature Attribution" (ICCV 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from camrt.engine.class_sets import class_sets
from camrt.engine.methods import Method, make_method
from camrt.errors import InputError
from camrt.evaluation.datasets.cub import CubDataset
from camrt.evaluation.metrics.cues import CueLocalisation, CuePair, cue_localisation, cue_pairs
from camrt.evaluation.papers.published_table import PublishedRow, PublishedTable
from camrt.evaluation.papers.reproduced_table import (
    MeasuredFigure,
    ReproducedRow,
    ReproducedTable,
    mean_figure,
)
from camrt.evaluation.papers.row_selection import select_rows, to_figure
from camrt.evaluation.papers.run_state import NO_DATA, ReproductionRun, as_squashed
from camrt.evaluation.papers.superset_cam import SupersetCAM
from camrt.evaluation.suite.measurement import CENTRE_BASELINE

__all__ = ["baseline_row", "measure_cues", "measure_localisation", "measure_removal"]

PIXEL_METHODS = ("gradient", "integrated", "smoothgrad", "vargrad")
EITHER_LOSS = dict.fromkeys(
    ("calm-em", "calm-ml", "calm-em+y", "calm-ml+y"), "the row of this model's CALM is either of them"
)
TRAINED_OTHERWISE = dict.fromkeys(
    ("has", "acol", "spg", "adl", "cutmix", "inca"),
    "a way of training: on a model trained so, the row CAM is its figure",
)


def measure_cues(run: ReproductionRun, table: PublishedTable) -> ReproducedTable:
    """Cue localisation on the folder of CUB-200-2011 (specification C1).

    Raises:
        DataError: A file of the folder that is missing or is not as it should be.
    """
    methods: dict[str, Method] = {name: make_method(name, {}) for name in (*PIXEL_METHODS, "cam", "calm")}
    wanted = select_rows(run, table, methods, EITHER_LOSS)
    why = "" if run.data is not None else NO_DATA
    if run.data is not None and not (run.data / "images.txt").is_file():
        why = f"it needs the folder of CUB-200-2011: there is no images.txt in {run.data.name}"
    facts = run.collect_facts()
    if why or run.data is None:
        return ReproducedTable(table, wanted.build_rows({}, why), {}, table.remarks, facts)
    cub = CubDataset(run.data)
    every = cue_pairs(cub.class_attributes, cub.attribute_names)  # of CUB itself there must be 31, 64 and 96
    facts["pairs of the folder"] = count_pairs(every)
    if len(cub.labels) != run.engine.num_classes:
        why = f"the model has {run.engine.num_classes} classes and the folder {len(cub.labels)}"
        return ReproducedTable(table, wanted.build_rows({}, why), {}, table.remarks, facts)
    pairs = draw_pairs(every, run.options.limit, run.options.seed)
    if not pairs:
        why = "no two classes of the folder differ in one to three parts"
        return ReproducedTable(table, wanted.build_rows({}, why), {}, table.remarks, facts)
    engine = run.engine.with_preprocessing(as_squashed(run.preprocessing))
    found: dict[str, Mapping[str, MeasuredFigure]] = {}
    for number, (key, method) in enumerate(wanted.methods.items()):
        run.progress(f"difference maps of {key}", number, len(wanted.methods))

        def explain(files: Sequence[Path], label: int, method: Method = method) -> NDArray[np.floating]:
            maps: NDArray[np.floating] = engine.explain(list(files), method, targets=label, size="map").raw
            return maps

        measured = cue_localisation(
            explain,
            cub,
            pairs,
            kind="calm" if method.name == "calm" else "minmax",
            batch_size=engine.batch_size,
        )
        found[key] = cue_figures(measured)
        facts["pairs"] = count_pairs(pairs)
        facts["skipped images"] = measured.hidden
    return ReproducedTable(
        table,
        wanted.build_rows(found),
        {},
        (
            *table.remarks,
            "images are resized whole to the model's input, proportions ignored, as the paper's are",
        ),
        facts,
    )


def count_pairs(pairs: Sequence[CuePair]) -> dict[str, int]:
    """How many pairs differ in one, two and three parts."""
    return {str(count): sum(len(pair.parts) == count for pair in pairs) for count in (1, 2, 3)}


def draw_pairs(pairs: Sequence[CuePair], limit: int | None, seed: int) -> tuple[CuePair, ...]:
    """All pairs, or at most `limit` of each group, drawn with the seed, in their order."""
    if limit is None:
        return tuple(pairs)
    kept: list[CuePair] = []
    for count in sorted({len(pair.parts) for pair in pairs}):
        group = [pair for pair in pairs if len(pair.parts) == count]
        places = np.random.default_rng((seed, count)).permutation(len(group))[:limit]
        kept += [group[place] for place in sorted(places.tolist())]
    return tuple(kept)


def cue_figures(measured: CueLocalisation) -> dict[str, MeasuredFigure]:
    """mPxAP of each group and of all pairs, in per cent."""  # noqa: D403 - mPxAP is the measure's name
    groups = {
        str(count): [pair.value for pair in measured.pairs if len(pair.pair.parts) == count]
        for count in (1, 2, 3)
    }
    figures = {name: mean_figure(values, 100) for name, values in groups.items() if values}
    return figures | {"mean": mean_figure([pair.value for pair in measured.pairs], 100)}


def measure_localisation(run: ReproductionRun, table: PublishedTable) -> ReproducedTable:
    """Localisation by boxes and masks, with and without supersets (specification C3 to C5)."""
    sets = choose_superset(run)
    methods: dict[str, Method] = {
        "cam": make_method("cam", {"normalisation": "minmax"}),
        "calm": make_method("calm", {}),
    }
    why = TRAINED_OTHERWISE | EITHER_LOSS
    if sets is None:
        unknown = (
            f"no superset is known for {run.engine.num_classes} classes: say which to take together "
            "(--superset all)"
        )
        why |= {"cam+y": unknown, "calm+y": unknown}
    else:
        methods["cam+y"] = SupersetCAM(classes=sets)
        methods["calm+y"] = make_method("calm", {"kind": "subset", "classes": sets})
    wanted = select_rows(run, table, methods, why)
    left_out = {"grand": "it is of three data sets"} if any(c.name == "grand" for c in table.columns) else {}
    facts = run.collect_facts() | {"superset": sets}
    if run.data is None:
        return ReproducedTable(table, wanted.build_rows({}, NO_DATA), left_out, table.remarks, facts)
    samples = run.dataset.samples
    if not any(sample.boxes for sample in samples):
        left_out["maxboxaccv2"] = "no image has boxes"
    if not any(sample.masks for sample in samples):
        left_out["pxap"] = "no image has masks"
    metrics = [name for name in ("maxboxaccv2", "pxap") if name not in left_out]
    if not metrics or not wanted.methods:
        text = "" if metrics else "no image has boxes or masks"
        return ReproducedTable(table, wanted.build_rows({}, text), left_out, table.remarks, facts)
    evaluation = run.evaluate_methods(table.name, wanted.methods, metrics)
    figures = {
        key: {name: to_figure(evaluation.figures[key].get(name)) for name in metrics}
        for key in wanted.methods
    }
    remarks = (
        *table.remarks,
        "every map is stretched from its minimum to its maximum; one threshold is chosen for all images",
        *(() if sets is None else (f"+Y takes the classes together that {sets!r} does",)),
    )
    rows = (*wanted.build_rows(figures), *baseline_row(evaluation.figures, metrics))
    return ReproducedTable(table, rows, left_out, remarks, facts | {"images": evaluation.results["images"]})


def choose_superset(run: ReproductionRun) -> str | None:
    """The set of classes that +Y takes together; None where none is known.

    Raises:
        InputError: That which was asked for does not fit the model.
    """
    name, classes = run.options.superset, run.engine.num_classes
    if name is None:
        return {1000: "imagenet", 200: "all"}.get(classes)
    try:
        class_sets(name, classes)
    except ValueError as error:
        raise InputError(f"superset {name!r}: {error}") from None
    return name


def baseline_row(
    figures: Mapping[str, Mapping[str, Mapping[str, object]]], metrics: Sequence[str]
) -> tuple[ReproducedRow, ...]:
    """The row of a Gaussian in the middle of every image, if the suite has it."""
    if CENTRE_BASELINE not in figures:
        return ()
    published = PublishedRow(CENTRE_BASELINE, CENTRE_BASELINE, {})
    own = {name: to_figure(figures[CENTRE_BASELINE].get(name)) for name in metrics}
    return (ReproducedRow(published, "a Gaussian in the middle", CENTRE_BASELINE, own),)


def measure_removal(run: ReproductionRun, table: PublishedTable) -> ReproducedTable:
    """Remove and classify, R_k (specification C2)."""
    methods = {name: make_method(name, {}) for name in (*PIXEL_METHODS, "cam", "calm")}
    wanted = select_rows(run, table, methods, EITHER_LOSS)
    why = NO_DATA if run.data is None else ""
    if not why and not any(sample.label is not None for sample in run.dataset.samples):
        why = "no image has a class"
    if why or not wanted.methods:
        return ReproducedTable(table, wanted.build_rows({}, why), {}, table.remarks, run.collect_facts())
    evaluation = run.evaluate_methods(table.name, wanted.methods, ["removal"])
    found = {}
    for key in wanted.methods:
        figure = evaluation.figures[key]["removal"]
        found[key] = {
            f"{round(100 * entry['share'])}": MeasuredFigure(
                entry["ratio"],
                None,
                figure["counted"],
                figure["undefined"],
                {"accuracy": entry["accuracy"], "random": entry["random"]},
            )
            for entry in figure["shares"]
        }
    facts = run.collect_facts() | {"images": evaluation.results["images"]}
    return ReproducedTable(table, wanted.build_rows(found), {}, table.remarks, facts)
