"""Smooth Grad-CAM++."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from typing_extensions import override

from camrt.engine.arrays import arange_like, clip_min, library, reserve_for, safe_divide, zeros
from camrt.engine.heads import Head
from camrt.engine.methods.altered_images import altered_batches, noise_adder, split_by_part, value_range
from camrt.engine.methods.base import ChannelMethod, Cost, MapShape, weighted_sum
from camrt.engine.methods.gradients import gradient_is_constant
from camrt.engine.queries import HeadQueries, Need
from camrt.engine.scores import ScoreKind

__all__ = ["SmoothGradCAMPlusPlus"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
TORCHCAM_EPSILON = 1e-8


@dataclass(frozen=True, kw_only=True)
class SmoothGradCAMPlusPlus(ChannelMethod):
    """Smooth Grad-CAM++: Grad-CAM++ of gradients taken at noisy copies of the image.

    "Smooth Grad-CAM++: An Enhanced Inference Level Visualization Technique for Deep Convolutional Neural
    Network Models" (Omeiza et al., 2019). With D_p the mean over the noisy copies of G^p, element by
    element, A the activation of the image itself and S_k its sum over the cells:

    * `definition="paper"`: α_k = Σ_ij w·relu(D₁), w = D₁/(2·D₂ + S_k·D₃), and zero where the denominator is.
    * `definition="torchcam"` (the torchcam package): the numerator is D₂, S_k·D₃ is Σ_ij A·D₃ with 1e-8 added
      to the denominator, G of the last copy stands for D₁ in relu(D₁), and L = Σ_k α_k·A_k is of the last
      copy's activation.

    Where the gradient is the same whatever the image, as behind global pooling and a linear layer, no noisy
    copy is run for it.

    Attributes:
        definition: Which of the two.
        score: What is differentiated: the logit, or the probability.
        draws: Noisy copies.
        noise: Standard deviation of the noise: of "paper" in units of max x − min x, over all pixels and
            colours, as in SmoothGrad; of "torchcam" in those of the model's input.
        seed: Seed of the noise. Draw i depends on the seed, on i and on the image's size alone.
    """

    name: ClassVar[str] = "smoothgradcam++"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS})

    definition: Literal["paper", "torchcam"] = "paper"
    score: ScoreKind = "logit"
    draws: int = 4
    noise: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("draws", 1)
        self.require_integer("seed", 0)
        self.require_number("noise", 0)

    def weights(self, queries: HeadQueries) -> tuple[Array, Array]:
        found = [self._weigh(powers, queries.activations) for powers in self._take_draws(queries)[0]]
        return library(*found).stack(found, axis=1), queries.scores(self.score)

    @override
    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        powers, shown = self._take_draws(queries)
        found = [self._weigh(one, queries.activations) for one in powers]
        return weighted_sum(library(*found).stack(found, axis=1), shown), queries.scores(self.score)

    @override
    def weighted_activations(self, queries: HeadQueries) -> tuple[Iterator[Array], Array]:
        powers, shown = self._take_draws(queries)
        weights = (self._weigh(one, queries.activations)[:, :, None, None] for one in powers)
        return (some * shown for some in weights), queries.scores(self.score)

    def _take_draws(self, queries: HeadQueries) -> tuple[list[Powers], Array]:
        """Each target's means of the gradient's powers over the noisy copies, and the activation shown."""
        images, shape = queries.images, queries.activations.shape
        every = arange_like(len(images), images)
        strength = np.float32(self.noise)
        if self.definition == "paper":
            strength = strength * value_range(images)
        alter = noise_adder(images, self.seed, strength)
        if gradient_is_constant(self, queries.head):
            powers = [Powers.of_one(gradient) for gradient in queries.gradients(self.score)]
            if self.definition == "paper":
                return powers, queries.activations
            return powers, queries.about(alter(self.draws - 1), every).activations
        targets = range(queries.targets.shape[1])
        reserve_for((len(targets), 4, *shape), images, "means of gradients")
        powers = [Powers(*(zeros(shape, images, "float64") for _ in range(4))) for _ in targets]
        last = zeros(shape, images)
        for parts, rows, owners in altered_batches(images, queries.batch_size, self.draws, alter):
            noisy = queries.about(rows, owners)
            for draw, part, found in split_by_part(parts, noisy.activations):
                if draw == self.draws - 1:
                    last[part] = found
            for own, gradient in zip(powers, noisy.gradients(self.score), strict=True):
                for _, part, found in split_by_part(parts, gradient):
                    own.add(part, found, self.draws)
        return powers, queries.activations if self.definition == "paper" else last

    def _weigh(self, powers: Powers, activations: Array) -> Array:
        """α (N, K) of one target."""
        xp = library(activations)
        if self.definition == "paper":
            above, passed = powers.first, powers.first
            total = xp.sum(activations, axis=(2, 3), keepdims=True, dtype=xp.float64)
            below = 2.0 * powers.second + total * powers.third
        else:
            above, passed = powers.second, powers.last
            total = xp.sum(activations * powers.third, axis=(2, 3), keepdims=True)
            below = 2.0 * powers.second + total + TORCHCAM_EPSILON
        shares = safe_divide(above, below, below != 0)
        return xp.astype(xp.sum(shares * clip_min(passed, 0.0), axis=(2, 3)), xp.float32)

    def cost(self, head: Head, shape: MapShape) -> Cost:
        if gradient_is_constant(self, head):
            shown = int(self.definition == "torchcam")
            return Cost(0, shown, "the gradient is the same whatever the image")
        passes, _ = head.gradient_passes()
        return Cost(0, self.draws, "one a noisy copy", head_adjoint=self.draws * passes)


@dataclass(frozen=True)
class Powers:
    """Means over noisy copies, (N, K, h, w) each.

    Attributes:
        first: Of the gradient.
        second: Of its square.
        third: Of its cube.
        last: The last copy's gradient itself.
    """

    first: Array
    second: Array
    third: Array
    last: Array

    @classmethod
    def of_one(cls, gradient: Array) -> Powers:
        """Those of a gradient that is every copy's."""
        xp = library(gradient)
        wide = xp.astype(gradient, xp.float64)
        return cls(wide, wide * wide, wide * wide * wide, wide)

    def add(self, part: slice, gradient: Array, count: int) -> None:
        """Adds one of `count` copies' gradients of some images."""
        one = self.of_one(gradient)
        self.first[part] += one.first / count
        self.second[part] += one.second / count
        self.third[part] += one.third / count
        self.last[part] = one.last
