"""Methods that share out a score among the image's numbers by gradients at it, or on the way to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from camrt.engine.arrays import library, reserve_for, to_device_async, to_float32, zeros
from camrt.engine.methods.pixels import AttributionMethod, NoisyGradients
from camrt.engine.methods.references import check_references
from camrt.engine.queries import HeadQueries

__all__ = ["ExpectedGradients", "GradientTimesInput"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


@dataclass(frozen=True, kw_only=True)
class GradientTimesInput(AttributionMethod):
    """The gradient times the image, x · ∂score/∂x.

    "Not Just a Black Box: Learning Important Features Through Propagating Activation Differences" (Shrikumar
    et al., 2016, section 2). For a network of ReLUs and no biases it sums to the score.
    """

    name: ClassVar[str] = "gradient-times-input"

    def attributions(self, queries: HeadQueries, target: int) -> Array:
        return queries.images * self.gradient(queries, target)

    def count_runs(self) -> tuple[int, str]:
        return 1, "the model's adjoint, there and back"


@dataclass(frozen=True, kw_only=True)
class ExpectedGradients(NoisyGradients, AttributionMethod):
    """Expected gradients: the mean of (x − r) · ∂score/∂x(r + α·(x − r)) over references r and α in [0, 1].

    "Improving performance of deep learning models with axiomatic attribution priors and expected gradients"
    (Erion et al., Nature Machine Intelligence 2021, section "Expected gradients"). It is the mean of
    integrated gradients from each reference, by one random point of the way a draw; its expectation sums to
    score(x) less the mean score of the references. With `noise` above zero x is a noisy copy in each draw,
    which is what captum's GradientShap does.

    Attributes:
        references: (R, C, H, W) as the model takes images, of which each draw takes one; None draws a
            reference, uniform noise between the image's least and greatest number.
    """

    name: ClassVar[str] = "expected-gradients"

    noise: float = 0.0
    references: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "references", check_references(self.name, self.references))

    def attributions(self, queries: HeadQueries, target: int) -> Array:
        images = queries.images
        xp = library(images)
        low = xp.min(images, axis=(1, 2, 3), keepdims=True)
        spread = xp.max(images, axis=(1, 2, 3), keepdims=True) - low
        noisy = self.noisy_copies(images)
        reserve_for((4, *images.shape), images, "references", itemsize=4)

        def find_ends(draw: int) -> tuple[Array, Array, float]:
            """The reference, the image, and how far from the one to the other."""
            random = np.random.default_rng([self.seed, draw, 1])
            share = float(random.random())
            end = noisy(draw) if self.noise else images
            if self.references is not None:
                return self.references.at(int(random.integers(len(self.references))), images), end, share
            pattern = random.random(images.shape[1:], np.float32)
            return low + spread * to_device_async(pattern, images), end, share

        def alter(draw: int) -> Array:
            start, end, share = find_ends(draw)
            return to_float32(start + share * (end - start))

        total = zeros(images.shape, images, "float64")
        for draw, rows, found in self.altered_gradients(queries, target, self.draws, alter):
            start, end, _ = find_ends(draw)
            total[rows] += (end - start)[rows] * found
        return to_float32(total / self.draws)

    def count_runs(self) -> tuple[int, str]:
        return self.draws, "one a draw"
