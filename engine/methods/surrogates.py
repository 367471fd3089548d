"""LIME and KernelSHAP: a linear model of the score over parts of the image that are there or not."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from camrt.engine.arrays import (
    constant_like,
    library,
    score_change,
    to_device_async,
    to_float32,
    to_numpy,
    zeros,
)
from camrt.engine.heads import Head
from camrt.engine.methods.base import Cost, DrawnMethod, MapShape
from camrt.engine.methods.segments import Segmentation, Segments, segment_images
from camrt.engine.queries import HeadQueries, Need
from camrt.engine.scores import ScoreKind
from camrt.export.budget import reserve_array

__all__ = ["LIME", "KernelSHAP"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """A least-squares problem, whose answer is linear in what the samples score.

    Attributes:
        samples: z (S, d), 1 where a part shows.
        solution: A (d, S): coefficients are A·y + b·Δ, with y the samples' scores and Δ the image's own, both
            less a score to begin from.
        of_difference: b (d,).
        of_intercept: c (S,): the intercept is c·y.
        correction: What squared standard errors are multiplied by for the d coefficients that were fitted;
            NaN where there are no more samples than those, and 0 where nothing was drawn.
    """

    samples: Array
    solution: Array
    of_difference: Array
    of_intercept: Array
    correction: float

    def where(self, array: Array) -> Design:
        """The same, where an array lies."""
        names = ("samples", "solution", "of_difference", "of_intercept")
        return replace(self, **{name: to_device_async(getattr(self, name), array) for name in names})


@dataclass(frozen=True, kw_only=True)
class SurrogateMethod(DrawnMethod):
    """What linear models of the score share.

    A part of the image that is not there has the baseline's number. Draw i depends on the seed, on i and on
    the number of parts, and on nothing else. `explanation.uncertainty` is the standard error of the
    coefficients over the draws, by the residuals (White, Econometrica 1980, with the correction for the
    fitted coefficients).

    Attributes:
        score: "probability" or "logit"; None takes the probability, or the number of a model that gives plain
            numbers.
        passes: Samples, one pass of the model each.
        segments: The parts: "grid", or superpixels by "slic" or "quickshift", for which scikit-image is
            needed.
        cells: Cells of the grid a side; "slic" makes the square of it.
        baseline: What hides: a number in the model's input space, or "mean", each part's mean colour.
        seed: Seed of the samples.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.PIXELS})

    score: ScoreKind | None = None
    passes: int = 1000
    segments: Segmentation = "grid"
    cells: int = 7
    baseline: float | str = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, least in (("passes", 1), ("cells", 2), ("seed", 0)):
            self.require_integer(option, least)
        if self.baseline != "mean":
            self.require_number("baseline")

    @override
    def raw_with_uncertainty(self, queries: HeadQueries) -> tuple[Array, Array, Array]:
        kind = self.score or queries.supported_kind("probability")
        images, scores = queries.images, queries.scores(kind)
        parts = segment_images(images, self.segments, self.cells)
        designs = [self.design(count) for count in parts.counts]
        found = self._sample_scores(queries, kind, parts, designs)
        placed = [design.where(found) for design in designs]
        xp = library(found)
        own = xp.astype(scores, xp.float64)
        maps: list[Array] = []
        errors: list[Array] = []
        for i in range(len(images)):
            at = 0 if parts.shared else i
            coefficients, error = self.fit(placed[at], found[i], own[i])
            labels = constant_like(parts.labels[at], images)
            for made, values in ((maps, coefficients), (errors, error)):
                made.append(xp.permute_dims(to_float32(values), (1, 0))[:, labels])
        return xp.stack(maps), scores, xp.stack(errors)

    @abstractmethod
    def design(self, parts: int) -> Design:
        """The problem of an image of so many parts."""

    def shown(self, design: Design) -> Float64:
        """Which parts show in what is run, of a problem on the host."""
        return np.asarray(design.samples)

    @abstractmethod
    def fit(self, design: Design, scored: Array, own: Array) -> tuple[Array, Array]:
        """Coefficients (d, T) and their standard errors.

        Args:
            design: The problem.
            scored: The scores of what was run, and perhaps more rows that do not count.
            own: (T,) of the image.
        """

    def _sample_scores(
        self, queries: HeadQueries, kind: ScoreKind, parts: Segments, designs: list[Design]
    ) -> Array:
        """(N, S, T) float64: what the images score where only some of their parts show."""
        images = queries.images
        shown = [self.shown(design).astype(np.float32) for design in designs]
        count = max(map(len, shown))
        labels = [constant_like(one, images) for one in parts.labels]
        xp = library(images)

        def make_masks(start: int, stop: int) -> Array:
            numbers = [np.arange(start, stop).clip(max=len(rows) - 1) for rows in shown]
            made = [
                to_device_async(rows[number], images)[:, where]
                for rows, number, where in zip(shown, numbers, labels, strict=True)
            ]
            return made[0] if parts.shared else xp.stack(made)

        found = zeros((len(images), count, queries.targets.shape[1]), images, "float64")
        for start, masks, scores in queries.scores_of_masked_copies(
            kind, count, make_masks, background=self._background(images, parts), shared=parts.shared
        ):
            found[:, start : start + masks.shape[-3]] = xp.astype(scores, xp.float64)
        return found

    def _background(self, images: Array, parts: Segments) -> Array | None:
        """What hides, (N, C, H, W); None for zeros."""
        if self.baseline == 0:
            return None
        if self.baseline != "mean":
            return library(images).full_like(images, self.baseline)
        made = to_numpy(images).copy()
        for i, image in enumerate(made):
            labels = parts.labels[0 if parts.shared else i]
            area = np.bincount(labels.ravel())
            for colour in image:
                colour[...] = (np.bincount(labels.ravel(), colour.ravel()) / area)[labels]
        return to_device_async(made, images)


def solve(design: Design, y: Array, difference: Array) -> tuple[Array, Array]:
    """Coefficients (d, T) and their standard errors, of y (S, T) and Δ (T,)."""
    coefficients = design.solution @ y + design.of_difference[:, None] * difference
    left = y - design.of_intercept @ y - design.samples @ coefficients
    return coefficients, library(y).sqrt(design.correction * (design.solution**2 @ left**2))


def correction_of(samples: int, fitted: int) -> float:
    """S/(S − d), or NaN where that makes no sense."""
    return samples / (samples - fitted) if samples > fitted else float("nan")


@dataclass(frozen=True, kw_only=True)
class LIME(SurrogateMethod):
    """LIME: the coefficients of a weighted ridge regression of the score on which parts of the image show.

    "Why Should I Trust You?: Explaining the Predictions of Any Classifier" (Ribeiro et al., KDD 2016, section
    3.4): with z the parts that show, each one with probability 1/2, and D the distance of z from all ones,

        min over w, w₀:  Σ_z π(z) · (f(z) − w₀ − w·z)² + λ·|w|²,    π(z) = exp(−D²/(2σ²))

    The paper leaves D, σ and the regulariser open; here they are those of the authors' lime package for
    images: D the cosine distance, σ = 0.25, λ = 1, and the image itself is one of the samples. A part's
    coefficient is the map on all its pixels.

    Attributes:
        width: σ.
        ridge: λ.
    """

    name: ClassVar[str] = "lime"

    width: float = 0.25
    ridge: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_number("width", above=0)
        self.require_number("ridge", 0)

    def design(self, parts: int) -> Design:
        reserve_array((5, self.passes + 1, parts), "samples of an image's parts", itemsize=8)
        draws = [np.random.default_rng([self.seed, i]).random(parts) < 0.5 for i in range(self.passes)]
        z = np.concatenate([np.ones((1, parts)), np.array(draws, np.float64)])
        distance = 1 - np.sqrt(z.mean(axis=1))
        weights = np.exp(-(distance**2) / (2 * self.width**2))
        shares = weights / weights.sum()
        mean = shares @ z
        centred = z - mean
        matrix = (centred.T * weights) @ centred + self.ridge * np.eye(parts)
        solution = np.linalg.pinv(matrix, hermitian=True) @ (centred.T * weights)
        intercept = shares - mean @ solution
        correction = correction_of(self.passes, parts + 1)
        # the first sample is the image, whose y is 0: it needs no pass
        return Design(z[1:], solution[:, 1:], np.zeros(parts), intercept[1:], correction)

    def fit(self, design: Design, scored: Array, own: Array) -> tuple[Array, Array]:
        y = score_change(scored[: len(design.samples)], own)
        return solve(design, y, library(own).zeros_like(own))

    def cost(self, head: Head, shape: MapShape) -> Cost:
        return Cost(0, self.passes, "one a sample of the image's parts")


@dataclass(frozen=True, kw_only=True)
class KernelSHAP(SurrogateMethod):
    """KernelSHAP: Shapley values of an image's parts, by least squares over coalitions of them.

    "A Unified Approach to Interpreting Model Predictions" (Lundberg & Lee, NeurIPS 2017, theorem 2): with z a
    coalition of |z| of d parts, 0 < |z| < d,

        min over φ:  Σ_z π(z) · (f(z) − f(0) − φ·z)²,    π(z) = (d − 1) / (C(d, |z|)·|z|·(d − |z|)),

    where Σφ = f(x) − f(0) holds exactly. Coalitions are drawn by π, and each then counts as much as any
    other; where all 2^d − 2 of them are within the passes, all are taken, each once, and φ is exact. A part's
    φ is the map on all its pixels.

    The captum package (`KernelShap`) has the sum hold by a weight of a million.
    """

    name: ClassVar[str] = "kernelshap"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("passes", 2)

    def design(self, parts: int) -> Design:
        count = self.passes - 1
        exact = parts < 32 and 2**parts - 2 <= count
        reserve_array((5, count, parts), "coalitions of an image's parts", itemsize=8)
        sizes = np.arange(1, parts)
        kernel = (parts - 1) / (sizes * (parts - sizes))  # of all coalitions of a size together
        if exact:
            z = (np.arange(1, 2**parts - 1)[:, None] >> np.arange(parts) & 1).astype(np.float64)
            alike = np.array([math.comb(parts, size) for size in sizes], np.float64)
            weights = (kernel / alike)[z.sum(axis=1).astype(np.int64) - 1]
        else:
            z = np.zeros((count, parts))
            for i in range(count):
                rng = np.random.default_rng([self.seed, i])
                size = 1 + int(np.searchsorted(np.cumsum(kernel), rng.random() * kernel.sum(), side="right"))
                z[i, rng.permutation(parts)[:size]] = 1
            weights = np.ones(count)
        weights = weights / max(weights.sum(), 1)
        system = np.zeros((parts + 1, parts + 1))
        system[:parts, :parts] = (z.T * weights) @ z
        system[parts, :parts] = system[:parts, parts] = 1
        inverse = np.asarray(np.linalg.pinv(system, hermitian=True), np.float64)
        solution = inverse[:parts, :parts] @ (z.T * weights)
        correction = 0.0 if exact else correction_of(count, parts - 1)
        return Design(z, solution, inverse[:parts, parts], np.zeros(len(z)), correction)

    @override
    def shown(self, design: Design) -> Float64:
        return np.concatenate([np.zeros((1, design.samples.shape[1])), design.samples])

    def fit(self, design: Design, scored: Array, own: Array) -> tuple[Array, Array]:
        empty = scored[0]
        y = score_change(scored[1 : len(design.samples) + 1], empty)
        return solve(design, y, score_change(own, empty))

    def cost(self, head: Head, shape: MapShape) -> Cost:
        return Cost(0, self.passes, "one of the empty image, and one a coalition of its parts")
