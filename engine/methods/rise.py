"""RISE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from typing_extensions import override

from camrt.engine.arrays import (
    SCORE_TOLERANCE,
    arange_like,
    constant_like,
    library,
    reserve_for,
    to_device_async,
    to_float32,
    zeros,
)
from camrt.engine.heads import Head
from camrt.engine.interpolation import cubic_matrix, interpolation_matrix
from camrt.engine.methods.base import Cost, DrawnMethod, MapShape
from camrt.engine.methods.standard_error import mean_and_error
from camrt.engine.queries import HeadQueries, Need
from camrt.engine.scores import ScoreKind

__all__ = ["RISE"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


@dataclass(frozen=True, kw_only=True)
class RISE(DrawnMethod):
    """RISE: what the image scores under random masks, as the mean of the masks weighted by it.

    "RISE: Randomized Input Sampling for Explanation of Black-box Models" (Petsiuk et al., BMVC 2018, equation
    6 and section 3.2): over N masks M_i, of which a pixel is seen with probability p,

        S(λ) = 1/(p·N) · Σ_i f(x ∘ M_i) · M_i(λ)

    A mask is a grid of random zeros and ones, upsampled bilinearly to one cell more than the image, and cut
    out at a random place. Where the image's sides are no multiple of the cells, a cell is rounded up, as in
    the authors' code. `explanation.uncertainty` is the standard error of S over the masks.

    Draw i depends on the seed, on i and on the image's size, and on nothing else: every image gets the same
    masks, on every device. Where all masked copies have one score, S is that score everywhere, which is what
    it tends to, and says nothing.

    `definition="openvino"` (the OpenVINO XAI package, version 1.1) upsamples by cubic convolution and cuts
    off what is below 0 or above 1.

    Attributes:
        definition: Which of the two.
        score: "probability" or "logit"; None takes the probability, or the number of a model that gives plain
            numbers.
        passes: N, two or more, one pass of the model each.
        cells: Of a mask's grid, a side.
        share: p.
        seed: Seed of the masks.
    """

    name: ClassVar[str] = "rise"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PIXELS})

    normalisation: Literal["max", "minmax"] = "minmax"
    score: ScoreKind | None = None
    definition: Literal["paper", "openvino"] = "paper"
    passes: int = 4000
    cells: int = 7
    share: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, least in (("passes", 2), ("cells", 1), ("seed", 0)):
            self.require_integer(option, least)
        self.require_number("share", above=0, most=1)

    @override
    def raw_with_uncertainty(self, queries: HeadQueries) -> tuple[Array, Array, Array]:
        kind = self.score or queries.supported_kind("probability")
        scores = queries.scores(kind)
        count, targets = scores.shape
        size = (queries.images.shape[2], queries.images.shape[3])
        sums, squares = (zeros((count, targets, size[0] * size[1]), scores, "float64") for _ in range(2))
        xp = library(scores)
        least, greatest = (xp.full_like(scores, sign * float("inf")) for sign in (1, -1))

        def make_masks(start: int, stop: int) -> Array:
            return self.make_masks(size, start, stop, queries.images)

        for _, masks, found in queries.scores_of_masked_copies(kind, self.passes, make_masks):
            flat = xp.astype(xp.reshape(masks, (len(masks), -1)), xp.float64)
            wide = xp.permute_dims(xp.astype(found, xp.float64), (0, 2, 1))
            sums += wide @ flat
            squares += wide**2 @ flat**2
            least = xp.minimum(least, xp.min(found, axis=1))
            greatest = xp.maximum(greatest, xp.max(found, axis=1))
        mean, error = mean_and_error(sums / self.share, squares / self.share**2, self.passes)
        alike = (greatest - least <= SCORE_TOLERANCE * xp.abs(greatest))[:, :, None]
        mean = xp.where(alike, xp.astype(greatest, xp.float64)[:, :, None], mean)
        error = xp.where(alike, xp.zeros_like(error), error)
        maps, errors = (to_float32(xp.reshape(one, (count, targets, *size))) for one in (mean, error))
        return maps, scores, errors

    def make_masks(self, size: tuple[int, int], start: int, stop: int, array: Array) -> Array:
        """Masks (M, H, W) float32 from one draw to before another, where an array lies."""
        steps = [-(-side // self.cells) for side in size]
        grids = np.empty((stop - start, self.cells, self.cells), np.float32)
        places = np.empty((stop - start, 2), np.int64)
        for i in range(start, stop):
            rng = np.random.default_rng([self.seed, i])
            grids[i - start] = rng.random((self.cells, self.cells)) < self.share
            places[i - start] = rng.integers(0, steps)
        reserve_for((2, len(grids), *size), array, "masks", itemsize=4)
        found, places = to_device_async(grids, array), to_device_async(places, array)
        xp = library(array)
        axes = []
        for axis, (side, step) in enumerate(zip(size, steps, strict=True)):
            whole = (self.cells + 1) * step
            matrix = (
                interpolation_matrix(self.cells, whole, 0.0, whole)
                if self.definition == "paper"
                else cubic_matrix(self.cells, whole)
            )
            rows = constant_like(matrix.astype(np.float32), array)
            axes.append(rows[places[:, axis : axis + 1] + arange_like(side, array)])
        return (axes[0] @ found @ xp.permute_dims(axes[1], (0, 2, 1))).clip(0.0, 1.0)

    def cost(self, head: Head, shape: MapShape) -> Cost:
        return Cost(0, self.passes, "one a random mask")
