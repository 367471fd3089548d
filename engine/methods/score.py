"""Score-CAM, in its three published definitions, and under a budget of passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from camrt.engine.arrays import library
from camrt.engine.heads import Head
from camrt.engine.masked_channels import find_constant_channels
from camrt.engine.methods.base import ChannelMethod, Cost, MapShape
from camrt.engine.methods.mask_clusters import cluster_channels
from camrt.engine.queries import HeadQueries
from camrt.engine.scores import ScoreKind

__all__ = ["ScoreCAM"]

Array = Any


@dataclass(frozen=True, kw_only=True)
class ScoreCAM(ChannelMethod):
    """Score-CAM: channels weighted by the score of the image seen through them.

    "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks" (Wang et al., CVPR
    Workshops 2020): m_k is channel k of the activation A upsampled to the image and scaled to [0, 1],

        L = Σ_k α_k · A_k

    * `definition="paper"`: α_k = f(x ∘ m_k) − f(x_b), f the probability, x_b an image of zeros in the
      model's input space.
    * `definition="grad-cam"` (the pytorch-grad-cam package): upsampling with aligned corners, then scaling;
      α = softmax over channels of the logits of x ∘ m_k.
    * `definition="torchcam"` (the torchcam package): scaling, then upsampling with half-pixel centres; the
      same softmax of logits.

    A constant channel masks nothing and has weight zero (in the softmax it takes part with the logit of
    the black image that its mask of zeros gives, as in those packages, and is then given weight zero).

    Attributes:
        definition: Which of the three.
        score: "probability" or "logit"; None takes the definition's own (for the paper's probability the
            number of a model that gives plain numbers).
        passes: A budget, which makes the map an approximation: the channels' masks are put into so many
            clusters, each cluster's mean mask is scored once, and all its channels have that score
            (docs/results/score_budget.md has how near the maps come). None scores every channel, exactly; so
            does a budget of no fewer passes than channels.
    """

    name: ClassVar[str] = "score"

    definition: Literal["paper", "grad-cam", "torchcam"] = "paper"
    score: ScoreKind | None = None
    passes: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.passes is not None:
            self.require_integer("passes", 1)

    @property
    def runs_a_mask(self) -> int:
        """How often the model is run for a mask."""
        return 1

    def count_masks(self, channels: int) -> int:
        """How many masks are scored for so many channels, at most."""
        return channels if self.passes is None else min(self.passes // self.runs_a_mask, channels)

    def masked_scores(self, queries: HeadQueries, kind: ScoreKind, **how: Any) -> Array:
        """(N, K, T): the scores of the image under each mask, see `HeadQueries.scores_of_masked_images`."""
        return queries.scores_of_masked_images(kind, **how)

    def weights(self, queries: HeadQueries) -> tuple[Array, Array]:
        paper = self.definition == "paper"
        kind = self.score or (queries.supported_kind("probability") if paper else "logit")
        activations = queries.activations
        constant = find_constant_channels(activations)
        count, members = self.count_masks(activations.shape[1]), None
        if count < activations.shape[1]:
            members, activations = cluster_channels(activations, count)
        masked = self.masked_scores(
            queries,
            kind,
            maps=activations,
            order="normalise-first" if self.definition == "torchcam" else "upsample-first",
            align_corners=self.definition == "grad-cam",
            epsilon=0.0 if paper else 1e-8,
        )
        baseline = queries.scores_of_zero_image(kind)
        xp = library(masked)
        if members is not None:
            masked = xp.take_along_axis(masked, members[:, :, None], axis=1)
        if paper:
            weights = masked - baseline[:, None]
        else:
            masked = xp.where(constant[:, :, None], baseline[:, None], masked)
            raised = xp.exp(masked - xp.max(masked, axis=1, keepdims=True))
            weights = raised / xp.sum(raised, axis=1, keepdims=True)
        weights = xp.where(constant[:, :, None], xp.zeros_like(weights), weights)
        return xp.permute_dims(weights, (0, 2, 1)), queries.scores(kind)

    def cost(self, head: Head, shape: MapShape) -> Cost:
        masks = self.count_masks(shape.channels)
        asked = "channel that is not constant" if self.passes is None else "cluster of channels"
        return Cost(0, masks * self.runs_a_mask + 1, f"one a {asked}, and one of the empty image")
