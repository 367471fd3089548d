"""RandomCAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from camrt.engine.arrays import constant_like, library
from camrt.engine.heads import Head
from camrt.engine.methods.base import SAME_FOR_EVERY_CLASS, ChannelMethod, Cost, MapShape
from camrt.engine.queries import HeadQueries
from camrt.kernels.caches import cache_by_bytes

__all__ = ["RandomCAM"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


@dataclass(frozen=True, kw_only=True)
class RandomCAM(ChannelMethod):
    """RandomCAM: channels weighted at random, what a method has to be better than.

    The pytorch-grad-cam package's: α_k is drawn evenly between −1 and 1. The draw depends on the seed and the
    number of channels alone: every image and every class has the same weights, so that nothing but the
    activation tells one map from another. Take the mean over several seeds.

    Attributes:
        seed: Seed of the draw.
    """

    name: ClassVar[str] = "random"
    no_contrast: ClassVar[str] = SAME_FOR_EVERY_CLASS

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("seed", 0)

    def weights(self, queries: HeadQueries) -> tuple[Array, Array]:
        scores = queries.scores("logit")
        drawn = constant_like(draw_weights(self.seed, queries.activations.shape[1]), queries.activations)
        return library(drawn).broadcast_to(drawn, (*scores.shape, len(drawn))), scores

    def cost(self, head: Head, shape: MapShape) -> Cost:
        return Cost(0, 0, "a draw")


@cache_by_bytes()
def draw_weights(seed: int, channels: int) -> npt.NDArray[np.float32]:
    """As many numbers between −1 and 1."""
    drawn = np.random.default_rng([seed, 0]).uniform(-1.0, 1.0, channels).astype(np.float32)
    drawn.flags.writeable = False
    return drawn
