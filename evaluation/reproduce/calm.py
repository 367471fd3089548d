"""The tables of "Keep CALM and Improve Visual Feature Attribution" (ICCV 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from camrt.engine.class_sets import class_sets
from camrt.engine.methods import Method, build
from camrt.errors import InputError
from camrt.evaluation.cub import Cub
from camrt.evaluation.cues import CueLocalisation, CuePair, cue_localisation, cue_pairs
from camrt.evaluation.reproduce.paper_tables import PublishedRow, PublishedTable
from camrt.evaluation.reproduce.rows import Figure, Reproduced, Row, mean_figure
from camrt.evaluation.reproduce.running import NO_DATA, Run, seen_through, squashed
from camrt.evaluation.reproduce.superset_cam import SupersetCAM
from camrt.evaluation.reproduce.wanting import figure_of, wanted_rows
from camrt.evaluation.suite.measuring import CENTRE

__all__ = ["baseline_row", "cues", "localisation", "removal"]

PIXEL_METHODS = ("gradient", "integrated", "smoothgrad", "vargrad")
EITHER_LOSS = dict.fromkeys(
    ("calm-em", "calm-ml", "calm-em+y", "calm-ml+y"), "the row of this model's CALM is either of them"
)
TRAINED_OTHERWISE = dict.fromkeys(
    ("has", "acol", "spg", "adl", "cutmix", "inca"),
    "a way of training: on a model trained so, the row CAM is its figure",
)


def cues(run: Run, table: PublishedTable) -> Reproduced:
    """Cue localisation on the folder of CUB-200-2011 (specification C1).

    Raises:
        DataError: A file of the folder that is missing or is not as it should be.
    """
    methods: dict[str, Method] = {name: build(name, {}) for name in (*PIXEL_METHODS, "cam", "calm")}
    wanted = wanted_rows(run, table, methods, EITHER_LOSS)
    why = "" if run.data is not None else NO_DATA
    if run.data is not None and not (run.data / "images.txt").is_file():
        why = f"it needs the folder of CUB-200-2011: there is no images.txt in {run.data.name}"
    facts = run.facts()
    if why or run.data is None:
        return Reproduced(table, wanted.finished({}, why), {}, table.remarks, facts)
    cub = Cub(run.data)
    every = cue_pairs(cub.class_attributes, cub.attribute_names)  # of CUB itself there must be 31, 64 and 96
    facts["pairs of the folder"] = counted(every)
    if len(cub.labels) != run.engine.num_classes:
        why = f"the model has {run.engine.num_classes} classes and the folder {len(cub.labels)}"
        return Reproduced(table, wanted.finished({}, why), {}, table.remarks, facts)
    pairs = drawn_pairs(every, run.options.limit, run.options.seed)
    if not pairs:
        why = "no two classes of the folder differ in one to three parts"
        return Reproduced(table, wanted.finished({}, why), {}, table.remarks, facts)
    engine = seen_through(run.engine, squashed(run.preprocessing))
    found: dict[str, Mapping[str, Figure]] = {}
    for number, (key, method) in enumerate(wanted.methods.items()):
        run.tell(f"difference maps of {key}", number, len(wanted.methods))

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
        facts["pairs"] = counted(pairs)
        facts["skipped pictures"] = measured.hidden
    return Reproduced(
        table,
        wanted.finished(found),
        {},
        (
            *table.remarks,
            "pictures are resized whole to the model's input, proportions ignored, as the paper's are",
        ),
        facts,
    )


def counted(pairs: Sequence[CuePair]) -> dict[str, int]:
    """How many pairs differ in one, two and three parts."""
    return {str(count): sum(len(pair.parts) == count for pair in pairs) for count in (1, 2, 3)}


def drawn_pairs(pairs: Sequence[CuePair], limit: int | None, seed: int) -> tuple[CuePair, ...]:
    """All pairs, or at most `limit` of each group, drawn with the seed, in their order."""
    if limit is None:
        return tuple(pairs)
    kept: list[CuePair] = []
    for count in sorted({len(pair.parts) for pair in pairs}):
        group = [pair for pair in pairs if len(pair.parts) == count]
        places = np.random.default_rng((seed, count)).permutation(len(group))[:limit]
        kept += [group[place] for place in sorted(places.tolist())]
    return tuple(kept)


def cue_figures(measured: CueLocalisation) -> dict[str, Figure]:
    """mPxAP of each group and of all pairs, in per cent."""  # noqa: D403 - mPxAP is the measure's name
    groups = {
        str(count): [pair.value for pair in measured.pairs if len(pair.pair.parts) == count]
        for count in (1, 2, 3)
    }
    figures = {name: mean_figure(values, 100) for name, values in groups.items() if values}
    return figures | {"mean": mean_figure([pair.value for pair in measured.pairs], 100)}


def localisation(run: Run, table: PublishedTable) -> Reproduced:
    """Localisation by boxes and masks, with and without supersets (specification C3 to C5)."""
    sets = superset_of(run)
    methods: dict[str, Method] = {"cam": build("cam", {"normalisation": "minmax"}), "calm": build("calm", {})}
    why = TRAINED_OTHERWISE | EITHER_LOSS
    if sets is None:
        unknown = (
            f"no superset is known for {run.engine.num_classes} classes: say which to take together "
            "(--superset all)"
        )
        why |= {"cam+y": unknown, "calm+y": unknown}
    else:
        methods["cam+y"] = SupersetCAM(classes=sets)
        methods["calm+y"] = build("calm", {"kind": "subset", "classes": sets})
    wanted = wanted_rows(run, table, methods, why)
    left_out = {"grand": "it is of three data sets"} if any(c.name == "grand" for c in table.columns) else {}
    facts = run.facts() | {"superset": sets}
    if run.data is None:
        return Reproduced(table, wanted.finished({}, NO_DATA), left_out, table.remarks, facts)
    samples = run.dataset.samples
    if not any(sample.boxes for sample in samples):
        left_out["maxboxaccv2"] = "no picture has boxes"
    if not any(sample.masks for sample in samples):
        left_out["pxap"] = "no picture has masks"
    metrics = [name for name in ("maxboxaccv2", "pxap") if name not in left_out]
    if not metrics or not wanted.methods:
        text = "" if metrics else "no picture has boxes or masks"
        return Reproduced(table, wanted.finished({}, text), left_out, table.remarks, facts)
    evaluation = run.evaluated(table.name, wanted.methods, metrics)
    figures = {
        key: {name: figure_of(evaluation.figures[key].get(name)) for name in metrics}
        for key in wanted.methods
    }
    remarks = (
        *table.remarks,
        "every map is stretched from its minimum to its maximum; one threshold is chosen for all pictures",
        *(() if sets is None else (f"+Y takes the classes together that {sets!r} does",)),
    )
    rows = (*wanted.finished(figures), *baseline_row(evaluation.figures, metrics))
    return Reproduced(table, rows, left_out, remarks, facts | {"pictures": evaluation.results["pictures"]})


def superset_of(run: Run) -> str | None:
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
) -> tuple[Row, ...]:
    """The row of a Gaussian in the middle of every picture, if the suite has it."""
    if CENTRE not in figures:
        return ()
    published = PublishedRow(CENTRE, CENTRE, {})
    own = {name: figure_of(figures[CENTRE].get(name)) for name in metrics}
    return (Row(published, "a Gaussian in the middle", CENTRE, own),)


def removal(run: Run, table: PublishedTable) -> Reproduced:
    """Remove and classify, R_k (specification C2)."""
    methods = {name: build(name, {}) for name in (*PIXEL_METHODS, "cam", "calm")}
    wanted = wanted_rows(run, table, methods, EITHER_LOSS)
    why = NO_DATA if run.data is None else ""
    if not why and not any(sample.label is not None for sample in run.dataset.samples):
        why = "no picture has a class"
    if why or not wanted.methods:
        return Reproduced(table, wanted.finished({}, why), {}, table.remarks, run.facts())
    evaluation = run.evaluated(table.name, wanted.methods, ["removal"])
    found = {}
    for key in wanted.methods:
        figure = evaluation.figures[key]["removal"]
        found[key] = {
            f"{round(100 * entry['share'])}": Figure(
                entry["ratio"],
                None,
                figure["counted"],
                figure["undefined"],
                {"accuracy": entry["accuracy"], "random": entry["random"]},
            )
            for entry in figure["shares"]
        }
    facts = run.facts() | {"pictures": evaluation.results["pictures"]}
    return Reproduced(table, wanted.finished(found), {}, table.remarks, facts)
