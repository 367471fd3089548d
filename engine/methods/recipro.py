"""Recipro-CAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from camrt.engine.arrays import library, reserve_for, score_change
from camrt.engine.heads import Head
from camrt.engine.methods.base import Cost, MapShape, Method, Need
from camrt.engine.queries import HeadQueries
from camrt.engine.scores import ScoreKind
from camrt.export import allocation
from camrt.export.budget import reserve

__all__ = ["ReciproCAM"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
BELL = np.outer([1, 2, 1], [1, 2, 1]) / 16  # what is kept around a cell


@dataclass(frozen=True, kw_only=True)
class ReciproCAM(Method):
    """Recipro-CAM: the score of the activation with nothing but one cell kept.

    "Recipro-CAM: Fast gradient-free visual explanations for convolutional neural networks" (Byun and Lee,
    2022; CVPR Workshops 2024): L_ij = Y_+ij, brought to [0, 1] by its smallest and largest value, with Y the
    probability and Y_+ij that of an activation that is zero but in cell (i, j), in all channels. Here the
    score Y₀ of nothing at all is taken off, which changes no map; a difference of less than 2⁻²¹ of Y₀ is
    rounding, and counts as none.

    OpenVINO XAI's is the same of what the file itself gives: `score="logit"` of a file that ends in logits.

    Attributes:
        score: "probability" or "logit"; None takes the probability, or the number of a model that gives plain
            numbers.
        gaussian: Whether the cells around are kept too: the 3×3 cells times (1, 2, 1)ᵀ(1, 2, 1)/16, as in the
            same authors' "ViT-ReciproCAM" (2023).
    """

    name: ClassVar[str] = "recipro"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ALTERATIONS})

    normalisation: Literal["max", "minmax"] = "minmax"
    score: ScoreKind | None = None
    gaussian: bool = False

    @property
    def applies_relu(self) -> bool:
        return self.postprocess == "library" or self.normalisation == "max"

    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        height, width = queries.activations.shape[2:]
        kind = self.score or queries.supported_kind("probability")
        reserve_for((2, *queries.targets.shape, height * width), queries.targets, "cells' scores")
        if self.gaussian:
            kept = queries.scores_with_masks(bell_masks(height, width), kind)
        else:
            _, kept = queries.scores_with_boxes(one_cell_boxes(height, width), kind, delete=False, keep=True)
        gains = score_change(kept, queries.scores_of_zero_activation(kind)[:, None])
        xp = library(gains)
        maps = xp.reshape(xp.permute_dims(gains, (0, 2, 1)), (*queries.targets.shape, height, width))
        return xp.astype(maps, xp.float32), queries.scores(kind)

    def cost(self, head: Head, shape: MapShape) -> Cost:
        cells = shape.height * shape.width
        passes, why = head.mask_passes(cells) if self.gaussian else head.box_passes(cells)
        return Cost(passes, 0, why)


def one_cell_boxes(height: int, width: int) -> npt.NDArray[np.int64]:
    """Every cell as a box (r0, c0, r1, c1), row by row."""
    reserve(64 * height * width, f"{height * width} cells")
    rows, columns = np.divmod(np.arange(height * width), width)
    return np.stack([rows, columns, rows + 1, columns + 1], axis=1)


def bell_masks(height: int, width: int) -> npt.NDArray[np.float32]:
    """For every cell, row by row, what is kept of all cells: (h·w, h, w)."""
    masks = allocation.zeros((height * width, height + 2, width + 2), "masks of cells")
    for number, (row, column) in enumerate(np.ndindex(height, width)):
        masks[number, row : row + 3, column : column + 3] = BELL
    return np.ascontiguousarray(masks[:, 1:-1, 1:-1], np.float32)
