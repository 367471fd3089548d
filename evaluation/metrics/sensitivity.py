"""Max-sensitivity: how far does a map move when its image moves a little?

Yeh et al., "On the (In)fidelity and Sensitivity of Explanations" (NeurIPS 2019, arXiv:1901.09392), section 4,
with Φ(x) the map of an image for one class:

    SENS = max over ‖δ‖_∞ ≤ r of ‖Φ(x + δ) − Φ(x)‖ / ‖Φ(x)‖

The maximum is over some draws of evenly distributed δ, and what is divided by is the norm of the map itself,
both as in the paper's code and in captum, whose radius of 0.02 and ten draws are the defaults here; the
paper's code takes 50 draws within 0.1 or 0.2 of pixels from 0 to 1. δ is in units of the model's input. A map
that never changes has the best figure, whatever the image shows: read it beside a measure of faithfulness.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camrt.engine.engine import Engine
from camrt.engine.explanation import Explanation
from camrt.engine.methods import Method
from camrt.errors import DegenerateMapWarning, InputError
from camrt.evaluation.checks import check_integer
from camrt.kernels.float_errors import ignore_float_errors
from camrt.kernels.saliency import MapFlag

__all__ = ["DRAWS", "RADIUS", "SensitivityResult", "largest_changes", "max_sensitivity"]

Array = NDArray[Any]

RADIUS, DRAWS = 0.02, 10


@dataclass(frozen=True, eq=False)
class SensitivityResult:
    """How far maps moved.

    Attributes:
        values: (M, N) of each method and image; NaN where a map is all zeros or was not finite.
        passes: What was run for it.
    """

    values: NDArray[np.float64]
    passes: int


@ignore_float_errors
def max_sensitivity(
    engine: Engine,
    images: Array,
    methods: Sequence[str | Method],
    *,
    targets: Any = None,
    radius: float = RADIUS,
    draws: int = DRAWS,
    seed: int = 0,
) -> SensitivityResult:
    """The largest relative change of each image's maps among some noisy copies of it.

    All methods explain the same copies, and share the passes through the trunk: `draws` more of each image.

    Args:
        engine: The model.
        images: (N, C, H, W) float32, as the model takes them.
        methods: Names of methods, or methods.
        targets: (N,) classes to explain; None for the predicted ones, which the copies are explained for too.
        radius: r.
        draws: How many copies of each image.
        seed: Of the noise, which draw by draw is the same for every image.

    Raises:
        InputError: A batch that the model cannot take, a radius or a number of draws that is none, or
            several targets an image.
        CamrtError: What explaining raises.
    """
    check_integer("seed", seed, 0)
    found = engine.explain_all(images, list(methods), targets=targets)
    if found[0].targets.ndim != 1:
        raise InputError("targets must be (N,), one an image")
    seeds = [(seed,)] * len(images)
    changes = largest_changes(engine, images, methods, found, radius=radius, draws=draws, seeds=seeds)
    return SensitivityResult(changes.values, changes.passes + sum(one.passes.images for one in found))


def largest_changes(
    engine: Engine,
    images: Array,
    methods: Sequence[str | Method],
    found: Sequence[Explanation],
    *,
    radius: float,
    draws: int,
    seeds: Sequence[tuple[int, ...]],
) -> SensitivityResult:
    """The same for images that have been explained.

    Args:
        engine: The model.
        images: (N, C, H, W).
        methods: M of them.
        found: Their explanations of the images, of which each image's first target counts.
        radius: r.
        draws: How many noisy copies of each image.
        seeds: Of each image's noise.
    """
    check_integer("draws", draws, 1)
    check_radius("radius", radius)
    before, targets = [first_maps(explanation) for explanation in found], found[0].targets
    targets = targets if targets.ndim == 1 else targets[:, 0]
    largest, passes = np.zeros((len(found), len(images))), 0
    for draw in range(draws):
        noise = [
            np.random.default_rng((*seed, draw)).uniform(-radius, radius, images.shape[1:]) for seed in seeds
        ]
        moved = (images + np.stack(noise)).astype(np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DegenerateMapWarning)  # such maps are NaN here
            again = engine.explain_all(moved, list(methods), targets=targets)
        passes += sum(explanation.passes.images for explanation in again)
        for number, explanation in enumerate(again):
            changes = relative_changes(before[number], first_maps(explanation))
            largest[number] = np.maximum(largest[number], changes)  # NaN stays
    return SensitivityResult(largest, passes)


def check_radius(name: str, radius: object) -> None:
    """Refuses what is no positive number.

    Raises:
        InputError: It is none.
    """
    if not (isinstance(radius, (int, float)) and not isinstance(radius, bool) and 0 < radius < np.inf):
        raise InputError(f"{name}={radius!r} must be a positive number")


def first_maps(explanation: Explanation) -> NDArray[np.float64]:
    """The maps (N, H, W) of each image's first target; NaN where one was not finite."""
    several = explanation.targets.ndim == 2
    maps = np.asarray(explanation.maps[:, 0] if several else explanation.maps, np.float64)
    flags = explanation.flags[:, 0] if several else explanation.flags
    return np.where((flags == MapFlag.NOT_FINITE)[:, None, None], np.nan, maps)


@ignore_float_errors
def relative_changes(maps: NDArray[np.float64], moved: NDArray[np.float64]) -> NDArray[np.float64]:
    """‖Φ(x + δ) − Φ(x)‖ / ‖Φ(x)‖ (N,) of maps (N, H, W); NaN where the norm is 0."""
    whole = np.linalg.norm(maps.reshape(len(maps), -1), axis=1)
    change = np.linalg.norm((moved - maps).reshape(len(maps), -1), axis=1)
    return np.asarray(np.where(whole > 0, change / whole, np.nan))
