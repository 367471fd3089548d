"""Opti-CAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from camrt.engine.arrays import arange_like, constant_like, library, reserve_for, safe_divide
from camrt.engine.heads import Head
from camrt.engine.interpolation import interpolation_matrix
from camrt.engine.methods.base import Cost, MapShape, Method
from camrt.engine.queries import HeadQueries
from camrt.engine.scores import ScoreKind

__all__ = ["OptiCAM"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
ADAM_BETAS = (0.9, 0.999)  # of Adam's two averages
EPSILON = 1e-8  # added to Adam's denominator


@dataclass(frozen=True, kw_only=True)
class OptiCAM(Method):
    """Opti-CAM: the channel weights under which the masked image scores highest.

    "Opti-CAM: Optimizing saliency maps for interpretability" (Zhang et al., CVIU 2024, equations 9 to 12):
    S(u) = Σ_k softmax(u)_k · A_k, and u, from zero on, climbs score(x ∘ n(up(S(u)))) by Adam; up is bilinear,
    n brings a map to [0, 1] by its smallest and largest value. The map is S at the end.

    All steps are taken: there is no early stop. The mask multiplies the model's input, so that what it hides
    is zero there, the mean colour of a network that normalises its images, and not black.

    Attributes:
        score: What is climbed: the logit, or the probability.
        steps: Steps of Adam.
        learning_rate: Its learning rate.
    """

    name: ClassVar[str] = "opticam"

    score: ScoreKind = "logit"
    steps: int = 100
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("steps", 1)
        self.require_number("learning_rate", above=0)

    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        maps = [self._climb(queries, target) for target in range(queries.targets.shape[1])]
        xp = library(*maps)
        return xp.astype(xp.stack(maps, axis=1), xp.float32), queries.scores(self.score)

    def _climb(self, queries: HeadQueries, target: int) -> Array:
        """The map (N, h, w) of one target after all steps."""
        xp = library(queries.activations)
        count, channels, *cells = queries.activations.shape
        image = queries.images.shape[1:]
        reserve_for((count, 2 * channels, *cells), queries.activations, "activations")
        reserve_for((count, 4, *image), queries.activations, "masked images")
        flat = xp.reshape(xp.astype(queries.activations, xp.float64), (count, channels, -1))
        left, upper, right, lower = queries.framing.region.box
        sides = zip(cells, queries.framing.size, ((upper, lower), (left, right)), strict=True)
        up = [
            constant_like(interpolation_matrix(before, after, *part), flat) for before, after, part in sides
        ]
        batch_index = arange_like(count, flat)
        u, mean, square = (xp.zeros_like(flat[:, :, 0]) for _ in range(3))
        for step in range(1, self.steps + 1):
            weights = softmax(u)
            coarse = xp.reshape(weights[:, None] @ flat, (count, *cells))
            mask, spread = min_max_normalise(up[0] @ coarse @ up[1].T)
            rows = xp.astype(queries.images * mask[:, None], xp.float32)
            found = queries.image_gradients(rows, batch_index, target, self.score)
            back = xp.sum(xp.astype(found, xp.float64) * queries.images, axis=1)
            down = up[0].T @ normalise_adjoint(back, mask, spread) @ up[1]
            rise = (flat @ xp.reshape(down, (count, -1, 1)))[:, :, 0]
            gradient = weights * (rise - xp.sum(weights * rise, axis=1, keepdims=True))
            mean = ADAM_BETAS[0] * mean + (1 - ADAM_BETAS[0]) * gradient
            square = ADAM_BETAS[1] * square + (1 - ADAM_BETAS[1]) * gradient**2
            whole = xp.sqrt(square / (1 - ADAM_BETAS[1] ** step)) + EPSILON
            u = u + self.learning_rate * (mean / (1 - ADAM_BETAS[0] ** step)) / whole
        return xp.reshape(softmax(u)[:, None] @ flat, (count, *cells))

    def cost(self, head: Head, shape: MapShape) -> Cost:
        full = self.steps if self.score == "probability" else 0
        return Cost(0, full, "one a step of the optimiser", full_adjoint=self.steps)


def softmax(u: Array) -> Array:
    """Softmax over the last axis."""
    xp = library(u)
    raised = xp.exp(u - xp.max(u, axis=-1, keepdims=True))
    return raised / xp.sum(raised, axis=-1, keepdims=True)


def min_max_normalise(maps: Array) -> tuple[Array, Array]:
    """Maps (N, H, W) in [0, 1], and how far each reached; a constant map becomes zero."""
    xp = library(maps)
    low = xp.min(maps, axis=(1, 2), keepdims=True)
    spread = xp.max(maps, axis=(1, 2), keepdims=True) - low
    return safe_divide(maps - low, spread, spread > 0), spread


def normalise_adjoint(back: Array, mask: Array, spread: Array) -> Array:
    """The cotangent of u for n = (u − min u)/(max u − min u), given that of n.

    ū = n̄/s, less Σ n̄·(1 − n)/s at the place of the minimum and Σ n̄·n/s at that of the maximum.
    """
    xp = library(back, mask, spread)
    shape = back.shape
    share = xp.reshape(safe_divide(back, spread, spread > 0), (shape[0], -1))
    values = xp.reshape(mask, (shape[0], -1))
    places = arange_like(values.shape[1], values)[None]
    flat = share
    for found, part in ((xp.argmin, 1 - values), (xp.argmax, values)):
        whole = xp.sum(share * part, axis=1, keepdims=True)
        there = places == found(values, axis=1, keepdims=True)
        flat = flat - xp.where(there, whole, xp.zeros_like(whole))
    return xp.reshape(flat, shape)
