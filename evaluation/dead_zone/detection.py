"""Finding the pixels that cannot influence a model, whatever they show.

"CAM-Based Methods Can See through Walls" (ECML-PKDD 2024, arXiv:2404.01964) builds a network that is blind
for the lower part of its images. Here the blind part of *any* model is looked for: with the gradient of its
input where it has one, and in any case by putting noise there and seeing whether an output changes by a
single bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from camrt.errors import AdjointError, InputError
from camrt.kernels.float_errors import ignore_float_errors

if TYPE_CHECKING:
    from camrt.engine.engine import Engine

__all__ = ["DeadZone", "find_dead_zone", "is_dead"]

Array = NDArray[Any]
DetectionMethod = Literal["gradients", "noise"]

RANDOM_PROBES = 4
"""Random images, beside those that are given."""
GRID_CELLS = 16
"""Cells along a side of the grid that is searched with noise first."""


@dataclass(frozen=True, eq=False)
class DeadZone:
    """What was found.

    Attributes:
        pixels: bool (H, W): no output changes when these pixels do.
        method: How they were found; "noise" has confirmed them in any case.
        passes: Images run for it.
    """

    pixels: NDArray[np.bool_]
    method: DetectionMethod
    passes: int

    @property
    def share(self) -> float:
        """Of the image."""
        return float(self.pixels.mean())

    @property
    def lowest_rows(self) -> int:
        """How many of the lowest rows are dead all along."""
        alive = np.flatnonzero(~self.pixels.all(axis=1))
        return int(len(self.pixels) - 1 - alive[-1]) if alive.size else len(self.pixels)


@ignore_float_errors
def find_dead_zone(
    engine: Engine,
    images: Array | None = None,
    *,
    size: tuple[int, int] | None = None,
    method: DetectionMethod | None = None,
    seed: int = 0,
) -> DeadZone:
    """The pixels that cannot influence a model.

    By gradients: those at which the gradient of random weightings of the logits is zero for all probes. By
    noise: cells of a grid whose noise changes nothing, and whole rows and columns next to them or to the
    image's border; a dead patch smaller than a cell, away from the border, is not found. What was found is
    confirmed with noise on all of it at once; a model for which that fails has no dead zone that can be
    found this way, and an empty one is answered.

    Args:
        engine: The model.
        images: (n, C, H, W) to try beside random ones, as the model takes them.
        size: (H, W) where the model leaves it open and no images are given.
        method: None takes gradients, and noise where an operator has none.
        seed: Of the noise.

    Raises:
        AdjointError: Gradients were asked for, and an operator has none.
        InputError: A model of open size without images or a size.
    """
    if method not in (None, "gradients", "noise"):
        raise InputError(f"way={method!r} must be 'gradients', 'noise' or None")
    rng = np.random.default_rng(seed)
    probes = _probes(engine, images, size, rng)
    if method in (None, "gradients"):
        try:
            found = _by_gradients(engine, probes, rng)
            spent = 2 * len(probes)
            return _confirm(engine, probes, found, "gradients", spent, rng)
        except AdjointError:
            if method == "gradients":
                raise
    found, spent = _by_noise(engine, probes, rng)
    return _confirm(engine, probes, found, "noise", spent, rng)


@ignore_float_errors
def is_dead(engine: Engine, probes: Array, pixels: NDArray[np.bool_], rng: np.random.Generator) -> bool:
    """Whether noise at some pixels leaves every logit of every probe the same, to the last bit."""
    return _are_logits_unchanged(engine, probes, engine.predict(probes), pixels, rng)


def _are_logits_unchanged(
    engine: Engine, probes: Array, logits: Array, pixels: NDArray[np.bool_], rng: np.random.Generator
) -> bool:
    noise = rng.standard_normal(probes.shape, np.float32) * (np.abs(probes).max() + 1)
    return bool(np.array_equal(engine.predict(np.where(pixels, noise, probes)), logits))


def _probes(
    engine: Engine, images: Array | None, size: tuple[int, int] | None, rng: np.random.Generator
) -> Array:
    height, width = engine.interface.height, engine.interface.width
    if images is not None:
        height, width = images.shape[2:]
    elif size is not None:
        height, width = height or size[0], width or size[1]
    if height is None or width is None:
        raise InputError("the model takes images of any size: say which (size=), or give images")
    random = rng.standard_normal((RANDOM_PROBES, engine.interface.channels, height, width), np.float32)
    return random if images is None else np.concatenate([np.asarray(images, np.float32), random])


def _by_gradients(engine: Engine, probes: Array, rng: np.random.Generator) -> NDArray[np.bool_]:
    # A random weighting is orthogonal to a class's gradient with probability zero.
    weighting = rng.standard_normal((len(probes), engine.num_classes)).astype(np.float32)
    _, gradients = engine.input_gradients(probes, weighting)
    return np.asarray((gradients == 0).all(axis=(0, 1)))


def _by_noise(engine: Engine, probes: Array, rng: np.random.Generator) -> tuple[NDArray[np.bool_], int]:
    height, width = probes.shape[2:]
    rows, columns = (np.linspace(0, side, min(GRID_CELLS, side) + 1).astype(int) for side in (height, width))
    dead, spent = np.zeros((height, width), np.bool_), len(probes)
    logits = engine.predict(probes)

    def tried(pixels: NDArray[np.bool_]) -> bool:
        nonlocal spent
        spent += len(probes)
        return _are_logits_unchanged(engine, probes, logits, pixels, rng)

    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            cell = np.zeros_like(dead)
            cell[top:bottom, left:right] = True
            if tried(cell):
                dead |= cell
    # The border of the dead zone lies inside cells that are alive: whole rows and columns are tried, from
    # those that were found and from the image's own border on.
    for axis in (0, 1):
        length = dead.shape[axis]
        found = [(0, 0), (length, length), *_runs(np.asarray(dead.all(axis=1 - axis)))]
        for step, place in [(way, at) for start, end in found for way, at in ((-1, start - 1), (1, end))]:
            while 0 <= place < length:
                line = np.zeros_like(dead)
                line[(place, slice(None)) if axis == 0 else (slice(None), place)] = True
                if not dead[line].all() and not tried(line):
                    break
                dead |= line
                place += step
    return dead, spent


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where stretches of True begin and end."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def _confirm(
    engine: Engine,
    probes: Array,
    found: NDArray[np.bool_],
    method: DetectionMethod,
    spent: int,
    rng: np.random.Generator,
) -> DeadZone:
    if found.any():
        spent += 2 * len(probes)
        if not is_dead(engine, probes, found, rng):
            found = np.zeros_like(found)
    return DeadZone(found, method, spent)
