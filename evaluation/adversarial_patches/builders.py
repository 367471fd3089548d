"""Adversarial examples: images in which it is known where a model sees a class.

"Pixab-CAM: Attend Pixel, not Channel" (ICLR 2022 submission), section on adversarial patches (specification
E3). Several patches (`camrt.evaluation.adversarial_patches.attack`), each of its own class, make one image:
on a natural one, whose pixels under the patches are erased (AE1), or on zeros (AE2). One of the classes is
explained, and a map of it should point at its patch.

The paper's patches have sides of 15 to 20 % of the image's, and there are 1 to 9 of them. Where they lie it
does not say; here each lies somewhere in a cell of its own of a 3×3 grid, so that none overlap.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from camrt.engine.engine import Engine
from camrt.errors import DataError, InputError
from camrt.evaluation.adversarial_patches.attack import (
    ETA,
    GradientFunction,
    attack_patches,
    check_attack_options,
    engine_gradient,
    input_range,
)
from camrt.evaluation.adversarial_patches.examples import AdversarialExamples
from camrt.evaluation.checks import check_integer

__all__ = ["MOST_PATCHES", "AttackOptions", "build_ae1", "build_ae2"]

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]

GRID = 3
"""Cells a side of the grid that patches are placed in."""
MOST_PATCHES = GRID**2
"""Patches of an image, one a cell."""
SIDES = (0.15, 0.2)
"""The sides of a patch, as shares of the image's."""


@dataclass(frozen=True)
class AttackOptions:
    """How patches are attacked.

    Attributes:
        eta: The step, as a share of each channel's range.
        steps: Most steps of one attack.
        confidence: p_t at which it ends.
        tries: Attacks a patch may take, each on another class and place within its cell.
        batch_size: Patches attacked in one batch, a bound on memory.

    Raises:
        InputError: A value out of range.
    """

    eta: float = ETA
    steps: int = 100
    confidence: float = 0.9
    tries: int = 10
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_attack_options(self.eta, self.steps, self.confidence)
        check_integer("tries", self.tries, 1)
        check_integer("batch_size", self.batch_size, 1)


def build_ae2(
    engine: Engine,
    count: int,
    *,
    patches: int | None = None,
    seed: int = 0,
    options: AttackOptions | None = None,
    gradient: GradientFunction | None = None,
) -> AdversarialExamples:
    """Images of adversarial patches on zeros (AE2).

    Which patches an image gets depends on the seed and its number alone, not on how many there are.

    Args:
        engine: The model.
        count: Images.
        patches: Patches an image; None draws 1 to 9 for each.
        seed: Of everything drawn.
        options: How patches are attacked.
        gradient: The model's gradient; None takes the engine's. For an ONNX file with operators that camrt
            cannot differentiate, `engine_gradient` of the same model loaded from torch. Whether a patch
            succeeded is decided by `engine`.

    Raises:
        InputError: No preprocessing is known, too few classes for different ones in an image, or an
            argument out of range.
        AdjointError: The engine has no gradient of this model.
        DataError: No patch succeeded in any image.
    """
    return _build(engine, None, None, count, patches, seed, options, gradient)


def build_ae1(
    engine: Engine,
    images: Array,
    count: int,
    *,
    labels: npt.ArrayLike | None = None,
    patches: int | None = None,
    seed: int = 0,
    options: AttackOptions | None = None,
    gradient: GradientFunction | None = None,
) -> AdversarialExamples:
    """Natural images whose pixels under adversarial patches are theirs instead (AE1): x·(1 − m) + patches.

    Args:
        engine: The model.
        images: x, (M, C, H, W) as the model takes them; example n is made of image n modulo M.
        count: Images wanted.
        labels: (M,) true classes, which no patch of the image then gets, since the scene shows them too;
            None leaves that to chance.
        patches: See `build_ae2`.
        seed: See `build_ae2`.
        options: See `build_ae2`.
        gradient: See `build_ae2`.

    Raises:
        InputError: Images that the model cannot take, labels that do not fit, or as for `build_ae2`.
        AdjointError: The engine has no gradient of this model.
        DataError: No patch succeeded in any image.
    """
    scenes = np.asarray(images)
    if scenes.ndim != 4 or not len(scenes) or scenes.dtype.kind != "f" or not np.isfinite(scenes).all():
        raise InputError(f"images must be finite floats (M, C, H, W), not {scenes.dtype} {scenes.shape}")
    barred = None if labels is None else np.asarray(labels)
    if barred is not None and (barred.shape != (len(scenes),) or barred.dtype.kind not in "iu"):
        raise InputError(f"labels must be {len(scenes)} classes, one an image, not {barred.shape}")
    return _build(engine, scenes, barred, count, patches, seed, options, gradient)


def _build(
    engine: Engine,
    scenes: Array | None,
    labels: Array | None,
    count: int,
    patches: int | None,
    seed: int,
    options: AttackOptions | None,
    gradient: GradientFunction | None,
) -> AdversarialExamples:
    check_integer("count", count, 1)
    check_integer("seed", seed, 0)
    if patches is not None:
        check_integer("patches", patches, 1, MOST_PATCHES)
    options, steps = options or AttackOptions(), engine.preprocessing
    if steps is None:
        raise InputError("the range of the model's input is not known: give camrt.load its preprocessing=")
    shape = (
        steps.channels,
        engine.interface.height or steps.size[0],
        engine.interface.width or steps.size[1],
    )
    if min(shape[1:]) < GRID:
        raise InputError(f"images of {shape[1]}×{shape[2]} have no room for {MOST_PATCHES} patches")
    if scenes is not None and scenes.shape[1:] != shape:
        raise InputError(f"images must be (M, {shape[0]}, {shape[1]}, {shape[2]}), not {scenes.shape}")
    plans = []
    for number in range(count):
        own = None if scenes is None or labels is None else int(labels[number % len(scenes)])
        plans.append(PatchPlan.draw(seed, number, patches, engine.num_classes, own))
    placed, attempts, failures = _attack_all(
        engine, plans, shape, input_range(steps), options, gradient or engine_gradient(engine)
    )
    explained = [
        plan.choose_explained([patch.succeeded for patch in own])
        for plan, own in zip(plans, placed, strict=True)
    ]
    kept = [number for number in range(count) if explained[number] is not None]
    if not kept:
        raise DataError(
            f"none of {attempts} attacks reached its class with p >= {options.confidence}: allow more steps, "
            "longer ones or less confidence"
        )
    made = np.zeros((len(kept), *shape), np.float32)
    behind = np.full(len(kept), -1) if scenes is None else np.array(kept) % len(scenes)
    for row, number in enumerate(kept):
        if scenes is not None:
            made[row] = scenes[behind[row]]
        for patch in placed[number]:
            r0, c0, r1, c1 = patch.box
            made[row, :, r0:r1, c0:c1] = patch.pixels
    chosen = np.array([explained[number] for number in kept], np.int64)
    targets = [placed[number][k].target for number, k in zip(kept, chosen, strict=True)]
    together = engine.probabilities(engine.predict(made))[np.arange(len(kept)), targets]
    return AdversarialExamples(
        kind="ae2" if scenes is None else "ae1",
        images=made,
        boxes=tuple(np.array([patch.box for patch in placed[number]], np.int64) for number in kept),
        classes=tuple(np.array([patch.target for patch in placed[number]], np.int64) for number in kept),
        alone=tuple(np.array([patch.alone for patch in placed[number]]) for number in kept),
        succeeded=tuple(np.array([patch.succeeded for patch in placed[number]]) for number in kept),
        chosen=chosen,
        probabilities=together.astype(np.float64),
        scenes=behind.astype(np.int64),
        attempts=attempts,
        failures=failures,
        left_out=count - len(kept),
        model=engine.sha256,
    )


@dataclass(frozen=True, eq=False)
class PatchPlan:
    """What is drawn for one image: a cell and a list of classes for each patch, and which is explained."""

    key: tuple[int, int]
    cells: Indices
    classes: tuple[Indices, ...]
    preference: Indices

    @classmethod
    def draw(cls, seed: int, number: int, patches: int | None, classes: int, barred: int | None) -> PatchPlan:
        rng = np.random.default_rng((seed, number))
        count = int(rng.integers(1, MOST_PATCHES + 1)) if patches is None else patches
        order = rng.permutation(classes)
        order = order[order != barred] if barred is not None else order
        if len(order) < (patches or MOST_PATCHES):
            raise InputError(
                f"{patches or MOST_PATCHES} patches of different classes in one image need more than the "
                f"{len(order)} classes there are for them: give patches="
            )
        cells = rng.permutation(MOST_PATCHES)[:count]
        # Every count-th class is a patch's own, so that later tries of two patches never meet in one class.
        return cls(
            (seed, number), cells, tuple(order[k::count] for k in range(count)), rng.permutation(count)
        )

    def draw_trial(self, patch: int, attempt: int, size: tuple[int, int]) -> tuple[int, tuple[int, ...]]:
        """The class and the box of a patch's attempt."""
        rng = np.random.default_rng((*self.key, 1 + patch, attempt))
        own = self.classes[patch]
        starts, ends = [], []
        for side, cell in zip(size, divmod(int(self.cells[patch]), GRID), strict=True):
            first, end = cell * side // GRID, (cell + 1) * side // GRID
            length = min(max(1, round(rng.uniform(*SIDES) * side)), end - first)
            starts.append(int(rng.integers(first, end - length + 1)))
            ends.append(starts[-1] + length)
        return int(own[attempt % len(own)]), (*starts, *ends)

    def choose_explained(self, succeeded: list[bool]) -> int | None:
        """The patch to explain: at random among those that succeeded."""
        return next((int(k) for k in self.preference if succeeded[k]), None)


@dataclass(frozen=True, eq=False)
class _Patch:
    """A patch as it ended."""

    target: int
    box: tuple[int, ...]
    pixels: Array
    alone: float
    succeeded: bool


def _attack_all(
    engine: Engine,
    plans: list[PatchPlan],
    shape: tuple[int, int, int],
    limits: tuple[Array, Array],
    options: AttackOptions,
    gradient: GradientFunction,
) -> tuple[list[list[_Patch]], int, int]:
    """The patches of every image, and the numbers of attacks and of failed ones."""
    waiting = deque(
        (number, patch, 0) for number, plan in enumerate(plans) for patch in range(len(plan.cells))
    )
    ended: dict[tuple[int, int], _Patch] = {}
    attempts = failures = 0
    while waiting:
        jobs = [waiting.popleft() for _ in range(min(options.batch_size, len(waiting)))]
        trials = [plans[number].draw_trial(patch, attempt, shape[1:]) for number, patch, attempt in jobs]
        targets = np.array([target for target, _ in trials], np.int64)
        found = attack_patches(
            gradient,
            shape[1:],
            shape[0],
            np.array([box for _, box in trials], np.int64),
            targets,
            low=limits[0],
            high=limits[1],
            eta=options.eta,
            steps=options.steps,
            confidence=options.confidence,
        )
        answers = engine.probabilities(engine.predict(found.images))
        good = found.reached & (answers.argmax(axis=1) == targets)
        attempts += len(jobs)
        failures += int((~good).sum())
        for row, ((number, patch, attempt), (target, box)) in enumerate(zip(jobs, trials, strict=True)):
            if not good[row] and attempt + 1 < options.tries:
                waiting.append((number, patch, attempt + 1))
                continue
            r0, c0, r1, c1 = box
            pixels = found.images[row, :, r0:r1, c0:c1].copy()
            alone = float(answers[row, target])
            ended[number, patch] = _Patch(target, box, pixels, alone, bool(good[row]))
    placed = [[ended[number, k] for k in range(len(plan.cells))] for number, plan in enumerate(plans)]
    return placed, attempts, failures
