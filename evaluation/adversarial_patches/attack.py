"""Adversarial patches: rectangles of pixels that make a model see a chosen class, and nothing around them.

"Pixab-CAM: Attend Pixel, not Channel" (ICLR 2022 submission), section on adversarial patches (specification
E3). From an image of zeros, the pixels of a patch m are moved, and no others, until the model sees t:

    x ← clip(x − η · sign(∂CE(f(x), t)/∂x) · m)     until f says t with p_t ≥ 0.9

"Zero" and "clip" are meant in the model's input space. The paper names the method and not how many steps are
made or when they end; here at most 100 of 2/255 of the input's range.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from camrt.engine.engine import Engine
from camrt.engine.images.preprocess import Preprocessing
from camrt.errors import InputError, TargetError
from camrt.evaluation.box_masks import boxes_to_mask
from camrt.evaluation.checks import check_integer
from camrt.kernels.float_errors import ignore_float_errors

__all__ = [
    "ETA",
    "AttackResult",
    "GradientFunction",
    "attack_patches",
    "engine_gradient",
    "input_range",
]

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]
GradientFunction = Callable[[Array, Indices], tuple[Array, Array]]
"""From images (N, C, H, W) and targets (N,) to probabilities (N, classes) and the gradient of the
cross-entropy with respect to the images, (N, C, H, W)."""

ETA = 2 / 255
"""The step, as a share of each channel's range."""


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What became of some patches.

    Attributes:
        images: (P, C, H, W) float32, zero outside the patch.
        probabilities: (P,) float64, p_t of the image as it is; NaN where the model gave no number.
        reached: (P,) whether t is the model's first class and p_t is as high as wanted.
        steps: (P,) steps made.
    """

    images: Array
    probabilities: npt.NDArray[np.float64]
    reached: npt.NDArray[np.bool_]
    steps: Indices


@ignore_float_errors
def attack_patches(
    gradient: GradientFunction,
    size: tuple[int, int],
    channels: int,
    patches: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    low: npt.ArrayLike,
    high: npt.ArrayLike,
    eta: float = ETA,
    steps: int = 100,
    confidence: float = 0.9,
) -> AttackResult:
    """Moves the pixels of patches, one an image of zeros, until the model sees their targets.

    All images are attacked together; one that has reached its target, or that no step moves any more (every
    pixel is at the end of its range, or the gradient is zero), or whose answer is not finite, is left alone.

    Args:
        gradient: The model, see `engine_gradient`.
        size: (H, W) of the images.
        channels: C.
        patches: (P, 4) half-open (r0, c0, r1, c1) in pixels.
        targets: t, (P,) classes.
        low: The smallest input, a number or (C,), see `input_range`; at most 0.
        high: The largest, at least 0.
        eta: η, as a share of high − low.
        steps: Most steps.
        confidence: p_t at which a patch is done.

    Raises:
        InputError: Patches outside the image, a range without zero, or an option out of range.
        TargetError: Targets that are not (P,) classes of the model.
    """
    check_attack_options(eta, steps, confidence)
    floor, ceiling = (_per_channel(name, value, channels) for name, value in (("low", low), ("high", high)))
    if not ((floor <= 0).all() and (ceiling >= 0).all() and (floor < ceiling).all()):
        raise InputError(
            f"the input's range {floor.ravel().tolist()} to {ceiling.ravel().tolist()} must hold zero, with "
            "which an image is empty"
        )
    boxes, wanted = np.asarray(patches), np.asarray(targets)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f"patches must be (P, 4), half-open (r0, c0, r1, c1), not {boxes.shape}")
    if wanted.shape != (len(boxes),) or wanted.dtype.kind not in "iu" or (wanted < 0).any():
        raise TargetError(f"{len(boxes)} patches need as many targets, class indices; these are {wanted!r}")
    wanted = wanted.astype(np.int64)
    inside = np.empty((len(boxes), 1, *size), np.bool_)
    for index, box in enumerate(boxes):
        inside[index] = boxes_to_mask(box[None], size)
    stride = np.float32(eta) * (ceiling - floor)
    images = np.zeros((len(boxes), channels, *size), np.float32)
    probabilities = np.full(len(boxes), np.nan)
    reached, taken = np.zeros(len(boxes), np.bool_), np.zeros(len(boxes), np.int64)
    active = np.arange(len(boxes))
    for step in range(steps + 1):
        if not len(active):
            break
        answers, slopes = gradient(images[active], wanted[active])
        shape = (len(active), *images.shape[1:])
        if answers.ndim != 2 or len(answers) != len(active) or slopes.shape != shape:
            raise InputError(
                f"gradient gave probabilities {answers.shape} and slopes {slopes.shape} for images {shape}"
            )
        _check_targets(wanted, answers.shape[1])
        own = answers[np.arange(len(active)), wanted[active]]
        finite = np.isfinite(answers).all(axis=1)
        done = finite & (answers.argmax(axis=1) == wanted[active]) & (own >= confidence)
        probabilities[active] = np.where(finite, own, np.nan)
        reached[active], taken[active] = done, step
        going = ~done & finite & np.isfinite(slopes).all(axis=(1, 2, 3))
        if step == steps or not going.any():
            break
        active, before = active[going], images[active[going]]
        after = np.clip(before - stride * np.sign(slopes[going]) * inside[active], floor, ceiling)
        images[active] = after
        active = active[(after != before).any(axis=(1, 2, 3))]
    return AttackResult(images, probabilities, reached, taken)


@ignore_float_errors
def engine_gradient(engine: Engine) -> GradientFunction:
    """The cross-entropy's gradient through an engine, ∂CE/∂logits = p − onehot(t).

    For a model that ends in a sigmoid, p is its sigmoid and the cross-entropy the sum over its classes.

    Raises:
        TargetError: When called: a class out of range.
        AdjointError: When called: an operator of the model has no derivative, or camrt has no rule for it.
    """

    def gradient(images: Array, targets: Indices) -> tuple[Array, Array]:
        _check_targets(targets, engine.num_classes)
        start = 0

        def weighting(logits: Array) -> Array:
            nonlocal start  # images are run in pieces, in their order
            block = targets[start : start + len(logits)]
            start += len(logits)
            difference: Array = engine.probabilities(logits)
            difference[np.arange(len(logits)), block] -= 1
            return difference

        logits, slopes = engine.input_gradients(images, weighting)
        return engine.probabilities(logits), slopes

    return gradient


@ignore_float_errors
def input_range(preprocessing: Preprocessing) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """What the darkest and the brightest pixel become: (0 − mean)/std, (255·scale − mean)/std; (C,) each."""
    mean, std = np.asarray(preprocessing.mean), np.asarray(preprocessing.std)
    ends = [((level * preprocessing.scale - mean) / std).astype(np.float32) for level in (0, 255)]
    return ends[0], ends[1]


def _per_channel(name: str, value: npt.ArrayLike, channels: int) -> npt.NDArray[np.float32]:
    """(C, 1, 1)."""
    numbers = np.asarray(value, np.float32)
    if numbers.shape not in ((), (channels,)) or not np.isfinite(numbers).all():
        raise InputError(f"{name} must be a number or one for each of {channels} channels, not {value!r}")
    return np.broadcast_to(numbers, (channels,))[:, None, None]


def _check_targets(targets: Indices, classes: int) -> None:
    if targets.max() >= classes:
        raise TargetError(f"class {targets.max()} is out of range: the model has classes 0 to {classes - 1}")


def check_attack_options(eta: float, steps: int, confidence: float) -> None:
    """Refuses options of an attack that are out of range."""
    if not 0 < eta <= 1:
        raise InputError(f"eta={eta!r} must be a share of the input's range, above 0 and at most 1")
    check_integer("steps", steps, 1)
    if not 0 < confidence <= 1:
        raise InputError(f"confidence={confidence!r} must be a probability above 0")
