"""What adversarial patches say about explanation methods.

"Pixab-CAM: Attend Pixel, not Channel" (ICLR 2022 submission):

- Detecting adversarial patches (DAP1 on AE1, DAP2 on AE2; specification E4): does the map of a patch's class
  lie on the patch?
- Dependence on the activations (DOA; E7): how far is a map from the plain sum of the activation's channels?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from camrt.engine.engine import Engine
from camrt.engine.methods import Method, make_method
from camrt.errors import InputError
from camrt.evaluation.adversarial_patches.examples import AdversarialExamples
from camrt.evaluation.metrics.localisation import energy_in_boxes, pointing_game
from camrt.kernels.float_errors import ignore_float_errors

__all__ = [
    "ActivationDependence",
    "PatchLocalisation",
    "PatchTaskResult",
    "cosine_distance",
    "measure_activation_dependence",
    "measure_patch_localisation",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class PatchLocalisation:
    """How well one method's maps find the patch of the class they explain.

    Attributes:
        method: The method with its options.
        hits: (N,) bool, whether the highest pixel lies in the patch.
        shares: (N,) float64 in [0, 1], the share of the map's sum that does.
        empty: Maps that are zero everywhere; they count as misses, with a share of 0.
    """

    method: str
    hits: npt.NDArray[np.bool_]
    shares: npt.NDArray[np.float64]
    empty: int

    @property
    def pointing(self) -> float:
        """PG, the share of hits."""
        return float(self.hits.mean())

    @property
    def proportion(self) -> float:
        """OL, the mean of the shares."""
        return float(self.shares.mean())


@dataclass(frozen=True)
class PatchTaskResult:
    """DAP1 or DAP2, by the kind of the examples.

    Attributes:
        results: One a method.
        chance: The mean share of the image that the patch covers: both figures of a map that knows nothing.
    """

    results: tuple[PatchLocalisation, ...]
    chance: float


@ignore_float_errors
def measure_patch_localisation(
    engine: Engine, examples: AdversarialExamples, methods: Sequence[str | Method]
) -> PatchTaskResult:
    """Whether the map of a patch's class lies on that patch (specification E4).

    Maps are of the image's size, upsampled bilinearly; there is no tolerance around the patch.

    Args:
        engine: The model that the examples were made with.
        examples: See `camrt.evaluation.adversarial_patches.examples`.
        methods: Names or methods.

    Raises:
        InputError: The examples were made with another model, or no methods are given.
        CamrtError: What `Engine.explain` raises.
    """
    chosen = _check_methods(engine, examples, methods)
    hits = np.zeros((len(chosen), len(examples)), np.bool_)
    shares = np.zeros((len(chosen), len(examples)))
    empty = np.zeros(len(chosen), np.int64)
    for start in range(0, len(examples), engine.batch_size):  # maps of all images would be many
        block = slice(start, start + engine.batch_size)
        boxes = examples.target_boxes[block]
        found = engine.explain_all(examples.images[block], chosen, targets=examples.targets[block])
        for number, explanation in enumerate(found):
            hits[number, block] = pointing_game(explanation.maps, boxes)
            shares[number, block] = energy_in_boxes(explanation.maps, boxes)
            empty[number] += int((~explanation.maps.any(axis=(1, 2))).sum())
    height, width = examples.images.shape[2:]
    areas = [(r1 - r0) * (c1 - c0) for ((r0, c0, r1, c1),) in examples.target_boxes]
    return PatchTaskResult(
        tuple(
            PatchLocalisation(repr(method), hits[number], shares[number], int(empty[number]))
            for number, method in enumerate(chosen)
        ),
        float(np.mean(areas) / (height * width)),
    )


@dataclass(frozen=True, eq=False)
class ActivationDependence:
    """How far one method's maps are from those of Activation-CAM.

    Attributes:
        method: The method with its options.
        distances: (N,) float64, 1 − cosine; NaN where either map is zero everywhere.
    """

    method: str
    distances: npt.NDArray[np.float64]

    @property
    def mean(self) -> float:
        """DOA, higher is less dependent: the mean where it is defined; NaN where it is nowhere."""
        defined = self.distances[~np.isnan(self.distances)]
        return float(defined.mean()) if len(defined) else float("nan")

    @property
    def undefined(self) -> int:
        """How many images have none."""
        return int(np.isnan(self.distances).sum())


@ignore_float_errors
def measure_activation_dependence(
    engine: Engine, examples: AdversarialExamples, methods: Sequence[str | Method]
) -> tuple[ActivationDependence, ...]:
    """DOA: 1 − cos between a method's map and Activation-CAM's, on the map's own grid (specification E7).

    Both maps after ReLU and normalisation. The paper's figures are of AE2 with four patches an image.

    Args:
        engine: The model that the examples were made with.
        examples: See `camrt.evaluation.adversarial_patches.examples`.
        methods: Names or methods whose maps lie on the activation's cells.

    Raises:
        InputError: The examples were made with another model, no methods are given, or the maps of one lie on
            other cells than the activation's.
        CamrtError: What `Engine.explain` raises.
    """
    chosen = _check_methods(engine, examples, methods)
    every = (*chosen, make_method("activation", {}))
    *found, plain = engine.explain_all(examples.images, every, targets=examples.targets, size="map")
    for method, explanation in zip(chosen, found, strict=True):
        if explanation.maps.shape != plain.maps.shape:
            raise InputError(
                f"maps of {method.name} have {explanation.maps.shape[1:]} cells and the activation "
                f"{plain.maps.shape[1:]}: they cannot be compared"
            )
    return tuple(
        ActivationDependence(repr(method), cosine_distance(explanation.maps, plain.maps))
        for method, explanation in zip(chosen, found, strict=True)
    )


@ignore_float_errors
def cosine_distance(maps: npt.ArrayLike, others: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """1 − cos of the angle between each map and its counterpart.

    Args:
        maps: (N, h, w), finite.
        others: (N, h, w), finite.

    Returns:
        (N,) float64 in [0, 2]; NaN where either is zero everywhere.

    Raises:
        InputError: Shapes that differ, or values that are not finite.
    """
    left, right = np.asarray(maps, np.float64), np.asarray(others, np.float64)
    if left.shape != right.shape or left.ndim != 3:
        raise InputError(f"maps {left.shape} and {right.shape} must both be (N, h, w)")
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise InputError("maps must be finite; a map holds NaN or infinity")
    distances = np.full(len(left), np.nan)
    for index in range(len(left)):
        one, other = left[index].ravel(), right[index].ravel()
        if one.any() and other.any():
            one, other = one / np.abs(one).max(), other / np.abs(other).max()  # so that no square vanishes
            cosine = one @ other / np.sqrt((one @ one) * (other @ other))
            distances[index] = 1.0 - np.clip(cosine, -1.0, 1.0)
    return distances


def _check_methods(
    engine: Engine, examples: AdversarialExamples, methods: Sequence[str | Method]
) -> tuple[Method, ...]:
    if isinstance(methods, str | Method) or not methods:
        raise InputError(f"methods={methods!r} must be a list of one or more methods")
    if examples.model and engine.sha256 and examples.model != engine.sha256:
        raise InputError(
            f"the examples were made with another model ({examples.model:.12}…) than this one "
            f"({engine.sha256:.12}…): their patches need not mean anything to it"
        )
    return tuple(make_method(method, {}) for method in methods)
