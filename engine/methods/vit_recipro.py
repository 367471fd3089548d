"""ViT-ReciproCAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from camrt.engine.arrays import library, reserve_for, to_float32
from camrt.engine.heads import Head
from camrt.engine.methods.base import Cost, MapShape, Method
from camrt.engine.methods.recipro import bell_masks
from camrt.engine.queries import HeadQueries, Need
from camrt.engine.scores import ScoreKind
from camrt.export import allocation

__all__ = ["ViTReciproCAM"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


@dataclass(frozen=True, kw_only=True)
class ViTReciproCAM(Method):
    """ViT-ReciproCAM: the score of a transformer's last block with nothing but one cell's tokens kept.

    "ViT-ReciproCAM: Gradient and Attention-Free Visual Explanations for Vision Transformer" (Byun and Lee,
    2023),
    in the form of OpenVINO XAI: what the block's first normalisation gives, and the sum around the block, are
    zero but for the cell and those around it, and for the tokens in front. The block is the one that reads
    the tokens at the cut, else the last. `recipro` keeps cells before the
    normalisation, which makes its bias of the others.

    Attributes:
        score: The logit, or the probability.
        gaussian: Whether the cells around are kept too: the 3×3 cells times (1, 2, 1)ᵀ(1, 2, 1)/16.
        front: Whether the tokens that belong to no cell are kept.
    """

    name: ClassVar[str] = "vit-recipro"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ATTENTION})

    normalisation: Literal["max", "minmax"] = "minmax"
    score: ScoreKind = "logit"
    gaussian: bool = True
    front: bool = True

    @property
    def applies_relu(self) -> bool:
        return self.postprocess == "library" or self.normalisation == "max"

    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        height, width = queries.attention.cells
        prefix, cells = queries.attention.prefix, height * width
        reserve_for((2, *queries.targets.shape, cells), queries.targets, "cells' scores")
        masks = allocation.zeros((cells, prefix + cells), "masks of tokens").astype(np.float32)
        masks[:, :prefix] = float(self.front)
        masks[:, prefix:] = (
            bell_masks(height, width).reshape(cells, cells) if self.gaussian else np.eye(cells)
        )
        scores = queries.attention.scores_of_kept_tokens(masks, self.score)
        xp = library(scores)
        maps = xp.reshape(xp.permute_dims(scores, (0, 2, 1)), (*queries.targets.shape, height, width))
        return to_float32(maps), queries.scores(self.score)

    def cost(self, head: Head, shape: MapShape) -> Cost:
        return Cost(shape.height * shape.width, 1, "the last block and what follows, once a cell")
