"""Integrated gradients along other ways to the image than the straight one from zero."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from camrt.engine.arrays import arange_like, library, reserve_for, to_float32, zeros
from camrt.engine.methods.pixels import AttributionMethod
from camrt.engine.queries import HeadQueries

__all__ = ["BlurIntegratedGradients", "GuidedIntegratedGradients"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`

CLOSE = 1e-9  # of two distances that are one but for rounding


@dataclass(frozen=True, kw_only=True)
class BlurIntegratedGradients(AttributionMethod):
    """Integrated gradients along the way from a blurred image to the image.

    "Attribution in Scale and Space" (Xu et al., CVPR 2020, section 3): ∫ ∂score/∂z(z_σ) · ∂z_σ/∂σ dσ from
    σ = `sigma` to 0, z_σ the image smoothed by a Gaussian of that standard deviation, zeros around it as in
    the authors' code. The trapezoid rule on N + 1 points σ at equal distances, with the differences of
    neighbouring images for the slope: before the magnitudes it sums to score(x) − score(z_sigma).

    Attributes:
        steps: N.
        sigma: The largest standard deviation, in pixels.
    """

    name: ClassVar[str] = "blur-integrated"

    steps: int = 50
    sigma: float = 50.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("steps", 1)
        self.require_number("sigma", above=0.0)

    def attributions(self, queries: HeadQueries, target: int) -> Array:
        images = queries.images
        reserve_for((4, *images.shape), images, "blurred images")

        def blurred(step: int) -> Array:
            return smooth(images, self.sigma * min(max(step, 0), self.steps) / self.steps)

        total = zeros(images.shape, images, "float64")
        ways = self.altered_gradients(queries, target, self.steps + 1, lambda step: to_float32(blurred(step)))
        for step, rows, found in ways:
            total[rows] += found * (blurred(step - 1) - blurred(step + 1))[rows] / 2
        return to_float32(total)

    def count_runs(self) -> tuple[int, str]:
        return self.steps + 1, "one a strength of the blur"


def smooth(images: Array, sigma: float) -> Array:
    """Images (..., H, W) smoothed by a Gaussian, zeros around them; float64."""
    xp = library(images)
    wide = xp.astype(images, xp.float64)
    if sigma == 0:
        return wide
    rows, columns = (gaussian_matrix(size, sigma, images) for size in images.shape[-2:])
    return rows @ wide @ columns


def gaussian_matrix(size: int, sigma: float, array: Array) -> Array:
    """(size, size), symmetric: the weight that each pixel of a row has for each, where an array lies."""
    xp = library(array)
    offsets = np.arange(1, math.ceil(8 * sigma) + 1)
    whole = 1.0 + 2.0 * float(np.exp(-0.5 * (offsets / sigma) ** 2).sum())
    places = xp.astype(arange_like(size, array), xp.float64)
    return xp.exp(-0.5 * ((places[:, None] - places[None]) / sigma) ** 2) / whole


@dataclass(frozen=True, kw_only=True)
class GuidedIntegratedGradients(AttributionMethod):
    """Guided IG: integrated gradients along a way that leaves for last what the score is steepest in.

    "Guided Integrated Gradients: An Adaptive Path Method for Removing Noise" (Kapishnikov et al., CVPR 2021),
    in the form of the authors' code, from an image of zeros. Each of N steps shortens the distance Σ|x − z|
    that is left by one N-th: those numbers of z with the smallest slopes move first, a share `fraction` of
    them at a time, and none is farther than `distance` ahead of or behind the straight way.

    Steps follow each other: the images of a batch are run together, and the N gradients one after the other.
    On a device every step sorts its slopes as often as it could need to, 1/fraction times.

    Attributes:
        steps: N.
        fraction: Share of the numbers that are moved at a time, above 0 and at most 1.
        distance: How far from the straight way a number may be, 0 to 1 of the whole way; at 0 it is the
            straight way.
    """

    name: ClassVar[str] = "guided-integrated"

    steps: int = 50
    fraction: float = 0.25
    distance: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("steps", 1)
        self.require_number("fraction", above=0.0, most=1.0)
        self.require_number("distance", least=0.0, most=1.0)

    def attributions(self, queries: HeadQueries, target: int) -> Array:
        images = queries.images
        xp, count = library(images), len(images)
        reserve_for((8, *images.shape), images, "images on the way")
        goal = xp.reshape(xp.astype(images, xp.float64), (count, -1))
        place, shares = xp.zeros_like(goal), xp.zeros_like(goal)
        every = arange_like(count, images)
        for step in range(self.steps):
            rows = to_float32(xp.reshape(place, images.shape))
            found = queries.image_gradients(rows, every, target, self.score, relu=self.relu)
            slopes = xp.reshape(xp.astype(found, xp.float64), goal.shape)
            moved = self.move(place, xp.abs(slopes), goal, (step + 1) / self.steps)
            shares = shares + (moved - place) * slopes
            place = moved
        return to_float32(xp.reshape(shares, images.shape))

    def count_runs(self) -> tuple[int, str]:
        return self.steps, "one a step, one after the other"

    def move(self, place: Array, slopes: Array, goal: Array, along: float) -> Array:
        """Where the numbers of images (N, P) are after a step, given the sizes of their slopes.

        Args:
            place: Where they are.
            slopes: Not negative.
            goal: The images.
            along: Share of the way's length that is behind after the step.
        """
        xp = library(place)
        low, high = goal * max(along - self.distance, 0.0), goal * min(along + self.distance, 1.0)
        left = xp.sum(xp.abs(goal), axis=1, keepdims=True) * (1.0 - along)
        behind = xp.abs(place) < xp.abs(low)
        place = xp.where(behind, low, place)
        last = math.floor(self.fraction * (goal.shape[1] - 1))  # of those that are moved at a time
        rounds = -(-goal.shape[1] // (last + 1))
        unbounded = xp.full_like(slopes, math.inf)
        for _ in range(rounds):
            distance = xp.sum(xp.abs(goal - place), axis=1, keepdims=True)
            gap = distance - left
            open_ = gap > CLOSE * xp.maximum(distance, xp.ones_like(distance))
            if isinstance(gap, np.ndarray) and not open_.any():
                break
            steepness = xp.where(place == high, unbounded, slopes)
            limit = xp.sort(steepness, axis=1)[:, last : last + 1]
            chosen = (steepness <= limit) & xp.isfinite(steepness) & open_
            room = xp.sum(xp.where(chosen, xp.abs(high - place), xp.zeros_like(place)), axis=1, keepdims=True)
            share = gap / xp.where(room > 0, room, xp.ones_like(room))
            farther = xp.where(share < 1, place + (high - place) * share, high)
            place = xp.where(chosen, farther, place)
        return place
