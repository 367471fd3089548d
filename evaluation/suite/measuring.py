"""The metrics of some pictures: one trunk pass for all methods, one answer a question for all metrics."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camrt.engine.explanation import Explanation
from camrt.engine.framing import Framing
from camrt.engine.fusing import finished
from camrt.engine.methods import Method
from camrt.engine.session import Engine
from camrt.errors import DegenerateMapWarning
from camrt.evaluation.alterations import PICTURE, ZERO, Alterations, Answers
from camrt.evaluation.box_accuracy import overlaps
from camrt.evaluation.curves import area_under, counts_of_steps, insertion_start, ranks_of
from camrt.evaluation.faithfulness import compactness, drops, increases
from camrt.evaluation.localisation import points_into, share_inside
from camrt.evaluation.removal import blurred, scaled_kernel
from camrt.evaluation.suite.preparing import Prepared, Target
from camrt.evaluation.suite.settings import METRICS, Settings
from camrt.evaluation.walls.share import dead_share
from camrt.kernels.saliency import MapFlag

__all__ = ["CENTRE", "Measured", "Plan", "centred", "measure", "normalised"]

Array = NDArray[Any]
Row = dict[str, Any]

CENTRE = "(centre)"
"""The name of the baseline: a Gaussian in the middle of every picture, whatever it shows."""
ERASED, BLURRED = "erased", "blurred"


@dataclass(frozen=True, eq=False)
class Plan:
    """What is measured on every picture.

    Attributes:
        engine: The model.
        methods: By name.
        metrics: Names, see `camrt.evaluation.suite.settings.METRICS`.
        settings: The rest.
        size: (H, W) of the model's input.
        empty: (classes,) logits of a picture of zeros.
        dead: (H, W) the pixels that cannot influence the model, for μ.
        deltas: Overlaps of MaxBoxAccV2.
    """

    engine: Engine
    methods: Mapping[str, Method]
    metrics: tuple[str, ...]
    settings: Settings
    size: tuple[int, int]
    empty: Array | None = None
    dead: NDArray[np.bool_] | None = None
    deltas: tuple[float, ...] = (0.3, 0.5, 0.7)

    def asks(self, *names: str) -> bool:
        """Whether any of some metrics is measured."""
        return any(name in self.metrics for name in names)

    def of(self, which: str) -> bool:
        """Whether any metric is measured on the maps of that class."""
        return any(METRICS[name].of == which for name in self.metrics)


@dataclass
class Measured:
    """Rows of three tables: a row a picture, a row a picture and annotated class, and a row a map."""

    pictures: list[Row] = field(default_factory=list)
    objects: list[Row] = field(default_factory=list)
    maps: list[Row] = field(default_factory=list)
    passes: int = 0


def measure(
    plan: Plan, block: Sequence[Prepared], advance: Callable[[float], None] | None = None
) -> Measured:
    """Measures every metric of every method on some pictures, at most as many as the engine's batch size.

    Args:
        plan: What to measure.
        block: The pictures.
        advance: Told from time to time which share of the block's altered pictures was run.
    """
    pixels = np.stack([item.pixels for item in block])
    known = [tuple(dict.fromkeys(_classes(plan, item))) for item in block]
    width = 1 + max(len(classes) for classes in known)

    def choose(logits: Array) -> Array:
        rows = []
        for classes, predicted in zip(known, logits.argmax(axis=1).tolist(), strict=True):
            own = dict.fromkeys((predicted, *classes))
            rows.append([*own, *[predicted] * (width - len(own))])
        return np.array(rows, np.int64)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateMapWarning)  # counted by their flags instead
        found = plan.engine.explain_all(pixels, list(plan.methods.values()), targets=choose)
    by_method = dict(zip(plan.methods, found, strict=True))
    first = found[0]
    sheets = {}
    if plan.asks("insertion"):
        sheets[BLURRED] = insertion_start(pixels)
    if plan.asks("removal") and plan.settings.base == "blur":
        sheets[ERASED] = blurred(pixels, *scaled_kernel(pixels.shape[2]))
    altered = Alterations(pixels, first.logits, first.targets, sheets, plan.empty)
    asked = {
        (name, i): _ask(plan, altered, explanation, i, item)
        for name, explanation in by_method.items()
        for i, item in enumerate(block)
    }
    chance = [_ask_random(plan, altered, i, item) for i, item in enumerate(block)]
    run = 0

    def told(count: int) -> None:
        nonlocal run
        run += count
        if advance is not None:
            advance(run / len(altered))

    answers = altered.answer(plan.engine.predict, plan.engine.probabilities, plan.engine.batch_size, told)
    measured = Measured(passes=answers.passes + sum(_total(explanation) for explanation in found))
    for i, item in enumerate(block):
        measured.pictures.append(_picture_row(first, answers, i, item, chance[i]))
        measured.objects += (
            [_object_row(item, target) for target in item.targets] if plan.of("objects") else []
        )
    for name, explanation in by_method.items():
        rows: list[tuple[Row, Array, Target | None]] = []
        for i, item in enumerate(block):
            rows += _map_rows(plan, name, explanation, answers, i, item, asked[name, i])
        _enter_localisation(plan, rows)
        measured.maps += [row for row, _, _ in rows]
    if plan.of("objects"):
        centre = centred((pixels.shape[2], pixels.shape[3]))
        rows = [
            (_blank(item.name, CENTRE, target.label), centre, target)
            for item in block
            for target in item.targets
        ]
        _enter_localisation(plan, rows)
        measured.maps += [row for row, _, _ in rows]
    return measured


def _classes(plan: Plan, item: Prepared) -> list[int]:
    """The classes beside the predicted one whose maps are needed."""
    classes = [item.label] if item.label is not None and plan.of("label") else []
    return classes + [target.label for target in item.targets if plan.of("objects")]


def _total(explanation: Explanation) -> int:
    passes = explanation.passes
    return passes.trunk + passes.full + passes.full_adjoint


@dataclass(frozen=True)
class _Asked:
    """Where the answers about one map are."""

    masked: int | None = None
    deletion: list[int] = field(default_factory=list)
    insertion: list[int] = field(default_factory=list)
    removal: list[int] = field(default_factory=list)


def _ask(plan: Plan, altered: Alterations, explanation: Explanation, i: int, item: Prepared) -> _Asked:
    asked = _Asked(altered.masked(i, explanation.maps[i, 0])) if plan.asks("drop", "increase") else _Asked()
    ranks_at = cache(lambda slot: ranks_of(explanation.maps[i, slot][None])[0])  # often of one slot twice
    if plan.asks("deletion", "insertion"):
        ranks = ranks_at(0)
        counts = counts_of_steps(altered.pixels, plan.settings.step or explanation.maps.shape[-1]).tolist()
        if plan.asks("deletion"):
            asked.deletion.extend(altered.ranked(i, ranks, counts, ZERO, PICTURE))
        if plan.asks("insertion"):
            asked.insertion.extend(altered.ranked(i, ranks, counts, PICTURE, BLURRED))
    if plan.asks("removal") and item.label is not None:
        ranks = ranks_at(_slot(explanation, i, item.label))
        asked.removal.extend(_ask_removal(plan, altered, i, ranks))
    return asked


def _ask_random(plan: Plan, altered: Alterations, i: int, item: Prepared) -> list[int]:
    if not plan.asks("removal") or item.label is None:
        return []
    own = np.random.default_rng((plan.settings.seed, zlib.crc32(item.name.encode())))
    return _ask_removal(plan, altered, i, own.permutation(altered.pixels).astype(np.int64))


def _ask_removal(plan: Plan, altered: Alterations, i: int, ranks: NDArray[np.int64]) -> list[int]:
    counts = [int(share * altered.pixels) for share in plan.settings.shares]
    return altered.ranked(i, ranks, counts, ERASED if plan.settings.base == "blur" else ZERO, PICTURE)


def _slot(explanation: Explanation, i: int, label: int) -> int:
    return int(np.flatnonzero(explanation.targets[i] == label)[0])


def _picture_row(
    explanation: Explanation, answers: Answers, i: int, item: Prepared, chance: list[int]
) -> Row:
    predicted = int(explanation.targets[i, 0])
    return {
        "picture": item.name,
        "label": item.label,
        "predicted": predicted,
        "probability": float(explanation.probabilities[i, predicted]),
        "right_after_random_removal": [bool(answers.predicted[place] == item.label) for place in chance],
    }


def _object_row(item: Prepared, target: Target) -> Row:
    height, width = item.pixels.shape[1:]
    return {
        "picture": item.name,
        "class": target.label,
        "boxes": len(target.drawn),
        "share": float(target.area((height, width)).mean()),
        "inside": None if target.mask is None else np.packbits(target.mask == 1).tobytes(),
        "ignored": None if target.mask is None else np.packbits(target.mask == 255).tobytes(),
    }


def _blank(picture: str, method: str, label: int) -> Row:
    return {"picture": picture, "method": method, "class": label, "is_label": None, "is_predicted": None}


def _map_rows(
    plan: Plan,
    name: str,
    explanation: Explanation,
    answers: Answers,
    i: int,
    item: Prepared,
    asked: _Asked,
) -> list[tuple[Row, Array, Target | None]]:
    """The rows of one picture and method, with the map and the annotation each is about."""
    predicted = int(explanation.targets[i, 0])
    annotated = {target.label: target for target in item.targets} if plan.of("objects") else {}
    classes = dict.fromkeys(
        [
            *([predicted] if plan.of("predicted") else []),
            *([item.label] if plan.of("label") and item.label is not None else []),
            *annotated,
        ]
    )
    rows = []
    for label in classes:
        slot = _slot(explanation, i, label)
        flag = int(explanation.flags[i, slot])
        raw, saliency = explanation.raw[i, slot], explanation.maps[i, slot]
        row: Row = _blank(item.name, name, label) | {
            "is_label": label == item.label,
            "is_predicted": label == predicted,
            "probability": float(explanation.probabilities[i, label]),
            "flag": flag,
            "raw": np.ascontiguousarray(raw, np.float32).tobytes(),
            "grid": list(raw.shape),
        }
        defined = flag != MapFlag.NOT_FINITE
        if label == predicted and defined:
            row |= _faithfulness(plan, plan.methods[name], raw, row["probability"], answers, asked)
            if plan.asks("mu") and plan.dead is not None:
                row["mu"] = _number(dead_share(saliency[None], plan.dead)[0])
        if label == item.label and defined and asked.removal:
            row["right_after_removal"] = [bool(answers.predicted[p] == label) for p in asked.removal]
        rows.append((row, saliency, annotated.get(label)))
    return rows


def _faithfulness(
    plan: Plan, method: Method, raw: Array, probability: float, answers: Answers, asked: _Asked
) -> Row:
    row: Row = {}
    if plan.asks("compactness"):
        cells, _ = finished(raw[None, None], method, Framing.whole(raw.shape), plan.engine.threads)
        row["compactness"] = float(compactness(cells[0])[0])
    chosen = answers.probabilities[:, 0]
    if asked.masked is not None:
        after = float(chosen[asked.masked])
        row |= {
            "probability_masked": after,
            "drop": _number(drops([probability], [after])[0]),
            "increase": _number(increases([probability], [after])[0]),
        }
    for curve in ("deletion", "insertion"):
        places = getattr(asked, curve)
        if places:
            values = chosen[places]
            row |= {curve: _number(area_under(values)), f"{curve}_curve": values.tolist()}
    return row


def _enter_localisation(plan: Plan, rows: Sequence[tuple[Row, Array, Target | None]]) -> None:
    """Enters what boxes and masks say of maps."""
    boxed: list[tuple[Row, Array, NDArray[np.int64]]] = []
    for row, saliency, target in rows:
        if target is None:
            continue
        if plan.asks("pointing", "energy") and (target.mask is not None or len(target.boxes)):
            area = target.area(plan.size)
            row["pointing"] = points_into(saliency, area)
            row["energy"] = share_inside(saliency, area)
        if plan.asks("maxboxacc", "maxboxaccv2") and len(target.drawn):
            boxed.append((row, normalised(saliency), target.drawn))
    if not boxed:
        return
    maps, drawn = np.stack([saliency for _, saliency, _ in boxed]), [boxes for _, _, boxes in boxed]
    if plan.asks("maxboxaccv2"):
        best = overlaps(maps, drawn, threads=plan.engine.threads)
        hits = np.stack([best >= delta for delta in plan.deltas], axis=1)
        for (row, _, _), own in zip(boxed, hits, strict=True):
            row["box_hits"] = np.packbits(own, axis=1).tobytes()
    if plan.asks("maxboxacc"):
        best = overlaps(maps, drawn, contours="largest", threads=plan.engine.threads)
        for (row, _, _), own in zip(boxed, best >= 0.5, strict=True):
            row["largest_box_hits"] = np.packbits(own).tobytes()


def normalised(saliency: Array) -> NDArray[np.float32]:
    """A map from its minimum to its maximum as 0 to 1, as WSOL takes every map; zeros if it is constant."""
    low, high = saliency.min(), saliency.max()
    if not high > low:
        return np.zeros(saliency.shape, np.float32)
    return np.asarray((saliency - low) / (high - low), np.float32).clip(0, 1)


def centred(size: tuple[int, int]) -> NDArray[np.float32]:
    """A Gaussian in the middle (H, W), sigma a quarter of each side: what looking at nothing brings."""
    rows, columns = ((np.arange(side) - (side - 1) / 2) / (side / 4) for side in size)
    return np.exp(-(rows[:, None] ** 2 + columns[None] ** 2) / 2).astype(np.float32)


def _number(value: Any) -> float | None:
    """A float, or None where it is undefined."""
    number = float(value)
    return number if np.isfinite(number) else None
