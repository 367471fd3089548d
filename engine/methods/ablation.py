"""Ablation-CAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from camrt.engine.arrays import clip_min, library, score_change
from camrt.engine.heads import Head
from camrt.engine.methods.base import ChannelMethod, Cost, MapShape, Need
from camrt.engine.queries import HeadQueries
from camrt.engine.scores import ScoreKind

__all__ = ["AblationCAM"]

Array = Any
MIN_SCORE = 1e-8


@dataclass(frozen=True, kw_only=True)
class AblationCAM(ChannelMethod):
    """Ablation-CAM: channels weighted by how much the score falls without them.

    "Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free Localization"
    (Desai and Ramaswamy, WACV 2020):

        α_k = (Y − Y_−k) / max(|Y|, 1e-8),    L = Σ_k α_k · A_k

    with Y the score and Y_−k the score with channel k of the activation A set to zero. Dividing by |Y| keeps
    the sign when a logit is negative, and is the paper's form when it is positive. A fall of less than 2⁻²¹
    of the score is rounding, and counts as none.

    Attributes:
        score: "logit" (the paper's) or "probability".
    """

    name: ClassVar[str] = "ablation"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ALTERATIONS})

    score: ScoreKind = "logit"

    def weights(self, queries: HeadQueries) -> tuple[Array, Array]:
        scores = queries.scores(self.score)
        without = queries.scores_without_channels(self.score)
        xp = library(scores)
        floor = clip_min(xp.abs(scores), MIN_SCORE)
        weights = -score_change(without, scores[:, None]) / floor[:, None]
        return xp.permute_dims(weights, (0, 2, 1)), scores

    def cost(self, head: Head, shape: MapShape) -> Cost:
        passes, why = head.channel_passes(shape.channels)
        return Cost(passes, 0, why)
