"""Opti-CAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from camrt.engine.heads import Head
from camrt.engine.methods.base import Cost, MapShape, Method
from camrt.engine.questions import Questions
from camrt.engine.scores import ScoreKind
from camrt.errors import MethodError

__all__ = ["OptiCAM"]

Array = npt.NDArray[Any]
DECAYS = (0.9, 0.999)  # of Adam's two averages
TINY = 1e-8  # added to Adam's denominator


@dataclass(frozen=True, kw_only=True)
class OptiCAM(Method):
    """Opti-CAM: the channel weights under which the masked picture scores highest.

    "Opti-CAM: Optimizing saliency maps for interpretability" (Zhang et al., CVIU 2024, equations 9 to 12):
    S(u) = Σ_k softmax(u)_k · A_k, and u, from zero on, climbs score(x ∘ n(up(S(u)))) by Adam; up is bilinear,
    n brings a map to [0, 1] by its smallest and largest value. The map is S at the end.

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
        self.require_whole("steps", 1)
        rate = self.learning_rate
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < np.inf:
            raise MethodError(f"{self.name}: learning_rate={rate!r} must be a number > 0")

    def raw(self, ask: Questions) -> tuple[Array, Array]:
        maps = [self._climb(ask, target) for target in range(ask.targets.shape[1])]
        return np.stack(maps, axis=1).astype(np.float32), ask.scores(self.score)

    def _climb(self, ask: Questions, target: int) -> Array:
        """The map (N, h, w) of one target after all steps."""
        count, channels, *cells = ask.activations.shape
        flat = ask.activations.reshape(count, channels, -1).astype(np.float64)
        sizes = ask.pictures.shape[2:]
        up = [interpolation(before, after) for before, after in zip(cells, sizes, strict=True)]
        images = np.arange(count)
        u, mean, square = (np.zeros((count, channels)) for _ in range(3))
        for step in range(1, self.steps + 1):
            weights = softmax(u)
            coarse = (weights[:, None] @ flat).reshape(count, *cells)
            mask, spread = stretched(up[0] @ coarse @ up[1].T)
            rows = (ask.pictures * mask[:, None]).astype(np.float32)
            found = ask.picture_gradients(rows, images, target, self.score)
            back = (found.astype(np.float64) * ask.pictures).sum(axis=1)
            down = up[0].T @ through_stretch(back, mask, spread) @ up[1]
            rise = (flat @ down.reshape(count, -1, 1))[:, :, 0]
            gradient = weights * (rise - (weights * rise).sum(axis=1, keepdims=True))
            mean = DECAYS[0] * mean + (1 - DECAYS[0]) * gradient
            square = DECAYS[1] * square + (1 - DECAYS[1]) * gradient**2
            whole = np.sqrt(square / (1 - DECAYS[1] ** step)) + TINY
            u = u + self.learning_rate * (mean / (1 - DECAYS[0] ** step)) / whole
        return np.asarray((softmax(u)[:, None] @ flat).reshape(count, *cells))

    def cost(self, head: Head, shape: MapShape) -> Cost:
        full = self.steps if self.score == "probability" else 0
        return Cost(0, full, "one a step of the optimiser", full_adjoint=self.steps)


def softmax(u: Array) -> Array:
    """Softmax over the last axis."""
    raised = np.exp(u - u.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def stretched(maps: Array) -> tuple[Array, Array]:
    """Maps (N, H, W) in [0, 1], and how far each reached; a constant map becomes zero."""
    low = maps.min(axis=(1, 2), keepdims=True)
    spread = maps.max(axis=(1, 2), keepdims=True) - low
    return np.divide(maps - low, spread, out=np.zeros_like(maps), where=spread > 0), spread


def through_stretch(back: Array, mask: Array, spread: Array) -> Array:
    """The cotangent of u for n = (u − min u)/(max u − min u), given that of n.

    ū = n̄/s, less Σ n̄·(1 − n)/s at the place of the minimum and Σ n̄·n/s at that of the maximum.
    """
    share = np.divide(back, spread, out=np.zeros_like(back), where=spread > 0)
    flat, values = share.reshape(len(share), -1).copy(), mask.reshape(len(mask), -1)
    plain = share.reshape(len(share), -1)
    rows = np.arange(len(flat))
    flat[rows, values.argmin(axis=1)] -= (plain * (1 - values)).sum(axis=1)
    flat[rows, values.argmax(axis=1)] -= (plain * values).sum(axis=1)
    return flat.reshape(share.shape)


def interpolation(before: int, after: int) -> Array:
    """(after, before): bilinear upsampling of an axis with half-pixel centres."""
    at = np.clip((np.arange(after) + 0.5) * before / after - 0.5, 0, before - 1)
    low = np.floor(at).astype(int)
    matrix = np.zeros((after, before))
    rows = np.arange(after)
    np.add.at(matrix, (rows, low), 1 - (at - low))
    np.add.at(matrix, (rows, np.minimum(low + 1, before - 1)), at - low)
    return matrix
