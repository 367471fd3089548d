"""From a prepared batch to its explanations, block by block."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from camrt.engine.arrays import concat, to_numpy
from camrt.engine.augmentation import AUGMENTATIONS, Augmentation
from camrt.engine.batch import MapSize, PreparedBatch
from camrt.engine.caller_warnings import warn_caller
from camrt.engine.explanation import Explanation
from camrt.engine.fusion import Fusion, mean_saliency_maps
from camrt.engine.map_output import MapOutput
from camrt.engine.map_placement import place_maps
from camrt.engine.methods import Method
from camrt.engine.model_run import ModelRun
from camrt.engine.nan_rows import fill_nan_rows
from camrt.engine.passes import PassCounts
from camrt.engine.queries import HeadQueries, Need
from camrt.engine.runtime.batch_splitting import OomSplitter
from camrt.engine.scores import probabilities
from camrt.engine.targets import TargetChooser
from camrt.errors import DeadlineError, DegenerateMapWarning, MethodError, TargetError
from camrt.export.rewrites.interface import LOGITS
from camrt.kernels.dispatch import host_readable
from camrt.kernels.saliency import MapFlag

__all__ = ["explain_prepared", "warn_nonfinite_maps"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


@dataclass
class MethodAnswer:
    """What a method answered about some images.

    Attributes:
        scores: (n, T).
        raws: Each layer's raw maps (n, T, h, w); of several copies of the images one after the other.
        uncertainty: Of the raw maps of a single layer, their standard error; None where it is not known.
    """

    scores: Array
    raws: list[Array]
    uncertainty: Array | None


@dataclass
class ExplainedBlock:
    """Some images' explanations, before they are maps of the image's size.

    Attributes:
        logits: (n, C).
        classes: (n, T).
        several: Whether results are returned as (n, T); False for (n,).
        answers: What each method answered.
        passes: What each method ran.
        seconds: What each method took; the first, with the pass that all share.
    """

    logits: Array
    classes: Array
    several: bool
    answers: list[MethodAnswer]
    passes: list[PassCounts]
    seconds: list[float]


def explain_prepared(
    run: ModelRun,
    splitter: OomSplitter,
    given: PreparedBatch,
    methods: tuple[Method, ...],
    choose: TargetChooser,
    *,
    size: MapSize,
    fuse: Fusion,
    output: MapOutput,
    labels: tuple[str, ...] | None,
    seconds: float,
) -> tuple[Explanation[Any], ...]:
    """Explanations of a batch by some methods, which share the pass through the trunk.

    Args:
        run: What runs the model.
        splitter: Splits the batch where memory is short.
        given: The batch.
        methods: The methods; the shared pass is counted in the first.
        choose: Chooses the classes of some images.
        size: Of the maps, see `camrt.Engine.explain`.
        fuse: How the maps of several layers become one.
        output: What the maps are written into.
        labels: Class names, when known.
        seconds: What preparing the batch took.

    Raises:
        DeadlineError: The call took too long; its text says how many images were done.
        TargetError: A function that chooses classes gave another number of them for some images.
    """
    done = 0  # images

    def explain_rows(start: int, end: int) -> ExplainedBlock:
        nonlocal done
        block = explain_block(run, given, slice(start, end), methods, choose)
        done = end
        return block

    try:
        blocks = splitter.run_in_pieces(len(given.images), explain_rows, most=run.batch_size)
    except DeadlineError as late:
        raise DeadlineError(
            f"{late}. {done} of {len(given.images)} images were done: pass fewer at once"
        ) from late
    if len({block.classes.shape[1] for block in blocks}) > 1:
        raise TargetError("the function that chooses targets gave a different number of them each time")
    logits = concat([block.logits for block in blocks])
    classes = concat([block.classes for block in blocks])
    answers = []
    for number, method in enumerate(methods):
        started = time.perf_counter()
        explanation = join_blocks(
            run,
            given,
            blocks,
            logits,
            classes,
            number,
            method,
            size=size,
            fuse=fuse,
            output=output,
            labels=labels,
        )
        spent = sum(block.seconds[number] for block in blocks) + time.perf_counter() - started
        answers.append(replace(explanation, seconds=spent + (seconds if number == 0 else 0.0)))
    return tuple(answers)


def explain_block(
    run: ModelRun, given: PreparedBatch, rows: slice, methods: tuple[Method, ...], choose: TargetChooser
) -> ExplainedBlock:
    """Scores and raw maps of some images of a batch, by all methods."""
    begun = time.perf_counter()
    images = given.images[rows]
    outputs = run.run_trunk(images, methods)
    classes, several = choose(rows, outputs[LOGITS])
    block = ExplainedBlock(outputs[LOGITS], classes, several, [], [PassCounts() for _ in methods], [])
    block.passes[0].trunk += len(images)
    nan_rows = None if given.nan_rows is None else given.nan_rows[rows]
    for method, passes in zip(methods, block.passes, strict=True):
        answer = explain_by_method(run, images, method, classes, outputs, passes, nan_rows)
        for copy in copies_for(method)[1:]:
            altered = copy.alter(images)
            passes.trunk += len(images)
            found = run.run_trunk(altered, (method,))
            other = explain_by_method(run, altered, method, classes, found, passes, nan_rows)
            answer = replace(
                answer, raws=answer.raws + [copy.undo(raw) for raw in other.raws], uncertainty=None
            )
        block.answers.append(answer)
        block.seconds.append(time.perf_counter() - begun)
        begun = time.perf_counter()
    return block


def copies_for(method: Method) -> tuple[Augmentation, ...]:
    """The copies of images that a method's maps are averaged over, the images themselves first."""
    return AUGMENTATIONS if method.smooth == "augment" else AUGMENTATIONS[:1]


def explain_by_method(
    run: ModelRun,
    images: Array,
    method: Method,
    classes: Array,
    outputs: Mapping[str, Array],
    passes: PassCounts,
    nan_rows: Array | None,
) -> MethodAnswer:
    """What a method answers about some images."""
    raws = []
    for fetched in run.find_fetched(method):
        queries = run.make_queries(images, fetched, classes, outputs, passes)
        raw, scores, uncertainty = method.smoothed_raw(queries)
        check_grid(method, raw, queries)
        raws.append(raw if nan_rows is None else fill_nan_rows(raw, nan_rows))
    if uncertainty is not None and nan_rows is not None:
        uncertainty = fill_nan_rows(uncertainty, nan_rows)
    return MethodAnswer(scores, raws, uncertainty if len(raws) == 1 else None)


def check_grid(method: Method, raw: Array, queries: HeadQueries) -> None:
    """Refuses raw maps on the image's grid of a method that has not declared it, and the other way round.

    Raises:
        MethodError: They are.
    """
    grid, image = tuple(raw.shape[2:]), tuple(queries.images.shape[2:])
    declared = Need.PIXELS in method.needs
    undeclared = grid == image != tuple(queries.activations.shape[2:]) and Need.JOINT not in method.needs
    if grid != image if declared else undeclared:
        raise MethodError(
            f"{method.name}: raw maps are {grid}, images {image}: {Need.PIXELS} belongs to the `needs` of "
            f"a method that gives {Need.PIXELS.value}, and of no other"
        )


def join_blocks(
    run: ModelRun,
    given: PreparedBatch,
    blocks: list[ExplainedBlock],
    logits: Array,
    classes: Array,
    number: int,
    method: Method,
    *,
    size: MapSize,
    fuse: Fusion,
    output: MapOutput,
    labels: tuple[str, ...] | None,
) -> Explanation[Any]:
    """The explanation of a batch by one method, whose answers are number `number` of each block."""
    shape = tuple(classes.shape) if blocks[0].several else (len(classes),)
    answers = [block.answers[number] for block in blocks]
    scores = concat([answer.scores for answer in answers])
    raws = [concat(list(parts)) for parts in zip(*(answer.raws for answer in answers), strict=True)]
    known = [answer.uncertainty for answer in answers if answer.uncertainty is not None]
    uncertainty = concat(known).reshape(*shape, *raws[0].shape[2:]) if known else None
    grid = max((tuple(raw.shape[2:]) for raw in raws), key=lambda cells: cells[0] * cells[1])
    image = (given.images.shape[2], given.images.shape[3])
    seen = run.framing(image, method)
    placed, shown = place_maps(size, image, grid, given.framings, seen)
    within = [placed.compose(copy.frame(seen)) for copy in copies_for(method)]
    place = output.allocate((*classes.shape, *placed.size), raws[0], shape)
    maps, flags, raw = mean_saliency_maps(raws, method, within, fuse, run.threads, place)
    warn_nonfinite_maps(flags)
    return Explanation(
        method=repr(method),
        maps=output.give(maps.reshape(*shape, *placed.size), given.to_caller),
        raw=given.to_caller(raw.reshape(*shape, *raw.shape[2:])),
        targets=given.to_caller(classes.reshape(shape)),
        scores=given.to_caller(scores.reshape(shape)),
        logits=given.to_caller(logits),
        probabilities=given.to_caller(probabilities(logits, run.interface.inverse_link)),
        flags=given.to_caller(flags.reshape(shape)),
        passes=sum((block.passes[number] for block in blocks), start=PassCounts()),
        seconds=0.0,
        labels=labels,
        views=given.views,
        framings=given.framings,
        map_framing=shown,
        sources=given.sources,
        uncertainty=None if uncertainty is None else given.to_caller(uncertainty),
    )


def warn_nonfinite_maps(flags: Array) -> None:
    """Warns of maps that are not finite, where that is known without waiting for a device."""
    if not host_readable(flags):
        return
    broken = int((to_numpy(flags) == MapFlag.NOT_FINITE).sum())
    if broken:
        warn_caller(
            f"{broken} of {to_numpy(flags).size} maps were not finite and are "
            "all zeros (explanation.flags says which): the model gave NaN or infinity for them",
            DegenerateMapWarning,
        )
