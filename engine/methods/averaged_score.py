"""SS-CAM and IS-CAM: Score-CAM with each channel's score averaged over altered masks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from typing_extensions import override

from camrt.engine.arrays import reserve_for, to_device_async
from camrt.engine.methods.score import ScoreCAM
from camrt.engine.queries import HeadQueries
from camrt.engine.scores import ScoreKind

__all__ = ["ISCAM", "SSCAM"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
Alteration = Callable[[Array, Array], None]


@dataclass(frozen=True, kw_only=True)
class AveragedScoreCAM(ScoreCAM):
    """Score-CAM whose α_k has the mean score of altered images under the mask of channel k.

    Attributes:
        definition: "paper": α_k = mean score − f(x_b), of probabilities, as the paper's Score-CAM has it.
            "torchcam": its masks, and the softmax over channels of the mean logits.
        draws: N, the alterations, each a pass a channel.
        passes: As of Score-CAM: of a budget, an N-th is what clusters of channels there are.
    """

    definition: Literal["paper", "torchcam"] = "paper"
    draws: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("draws", 1)
        if self.passes is not None:
            self.require_integer("passes", self.draws)

    @property
    @override
    def runs_a_mask(self) -> int:
        return self.draws

    @override
    def masked_scores(self, queries: HeadQueries, kind: ScoreKind, **how: Any) -> Array:
        found = [
            queries.scores_of_masked_images(kind, **how, alter=self.alteration(queries.images, draw))
            for draw in range(self.draws)
        ]
        return sum(found[1:], start=found[0]) / self.draws

    @abstractmethod
    def alteration(self, images: Array, draw: int) -> Alteration:
        """What is done to masked images, in place, in draw number i; it is told which images they are of."""


def add_noise(images: Array, noise: Array, rows: Array, owners: Array) -> None:
    """Adds noise to the masks of rows: x ∘ (m + δ) = x ∘ m + x ∘ δ."""
    rows += images[owners] * noise


def scale(factor: float, rows: Array, owners: Array) -> None:
    """Multiplies rows."""
    rows *= factor


@dataclass(frozen=True, kw_only=True)
class SSCAM(AveragedScoreCAM):
    """SS-CAM: Score-CAM under noisy masks.

    "SS-CAM: Smoothed Score-CAM for Sharper Visual Feature Localization" (Wang et al., 2020, section 3), where
    the channel's score is the mean of f(x ∘ (m_k + δ_i)) over N draws of δ ~ N(0, σ²), pixel by pixel. The
    noise is added to the scaled mask, as the torchcam package reads the paper.

    Draw i depends on the seed, on i and on the image's size, and on nothing else: all channels and images get
    the same noise, so that what their scores differ by is theirs.

    Attributes:
        noise: σ, in units of the mask's range.
        seed: Seed of the noise.
    """

    name: ClassVar[str] = "sscam"

    draws: int = 35
    noise: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("seed", 0)
        self.require_number("noise", 0)

    @override
    def alteration(self, images: Array, draw: int) -> Alteration:
        reserve_for((3, *images.shape[2:]), images, "noise", itemsize=4)
        drawn = np.random.default_rng([self.seed, draw]).standard_normal(images.shape[2:], np.float32)
        return partial(add_noise, images, to_device_async(np.float32(self.noise) * drawn, images))


@dataclass(frozen=True, kw_only=True)
class ISCAM(AveragedScoreCAM):
    """IS-CAM: Score-CAM with the score integrated along the mask.

    "IS-CAM: Integrated Score-CAM for axiomatic-based explanations" (Naidu et al., 2020), as the torchcam
    package reads it: the channel's score is the mean of f(c_i · x ∘ m_k) over i = 1 … N, c_i = (1 + … + i)/N,
    which is what adding up the masks x ∘ m_k · i/N gives. It goes beyond 1, to (N + 1)/2.
    """

    name: ClassVar[str] = "iscam"

    draws: int = 10

    @override
    def alteration(self, images: Array, draw: int) -> Alteration:
        return partial(scale, (draw + 1) * (draw + 2) / (2 * self.draws))
