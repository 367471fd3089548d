"""Pixab-CAM."""

from __future__ import annotations

from dataclasses import dataclass
from operator import index
from typing import Any, ClassVar, Literal

from camrt.engine.arrays import clip_min, library, reserve_for, score_change
from camrt.engine.heads import Head
from camrt.engine.methods.base import Cost, MapShape, Method, Need
from camrt.engine.methods.boxes import Assignment, Placements, count_boxes, place_boxes
from camrt.engine.queries import HeadQueries
from camrt.engine.scores import ScoreKind
from camrt.errors import MethodError

__all__ = ["PixabCAM"]

Array = Any
MIN_SCORE = 1e-12
MAX_BOX_SIDE = 64  # of a box, in cells: more than any map this is used on has


@dataclass(frozen=True, kw_only=True)
class PixabCAM(Method):
    """Pixab-CAM: cells weighted by what deleting them costs and what keeping only them brings.

    "Pixab-CAM: Attend Pixel, not Channel" (ICLR 2022 submission), Equations 7 and 8: over boxes b of cells,

        p_ij = mean over b of (Y − Y_−b) / D  +  mean over b of (Y_+b − Y₀) / P,    L = minmax(relu(p))

    with Y the score, Y_−b the score with the box's cells set to zero in all channels, Y_+b with only those
    kept, and Y₀ the score of an all-zero activation. The means of the box shapes count equally. A difference
    of less than 2⁻²¹ of Y or Y₀ is rounding, and counts as none.

    What stands under the fractions of Equation 7 is lost in the copy of the paper's text that this follows.
    N2 is a reconstruction: of three candidates the one whose maps come nearest to the pattern of the paper's
    tables (docs/results/box_readings.md). It could not be compared with code of the authors.

    A map of 8×8 cells and the four boxes have 578 placements in both perspectives by "coverage", 450 of them
    distinct, and 512 by "same" and "anchor": the quarter of Ablation-CAM's 2048 that the paper names. Boxes
    that coincide once they are clipped are asked about once.

    Attributes:
        score: "probability" or "logit"; None takes the probability, or the number of a model that gives plain
            numbers.
        denominators: (D, P): "N1" both Y; "N2" Y and Y₀; "N3" both |Y − Y₀|. None: N2 for a probability, N3
            for a logit or a contrast, which may be zero or negative.
        assignment: Where boxes are placed, and which placements a cell's value is the mean of. "coverage":
            all that cover the cell, of a map padded on all sides, clipped at the border. "same": of as many
            placements as there are cells, as a convolution with padding `same` has them (boxes of two
            cells stick out at the lower and the right border only), those that cover the cell. "anchor": the
            one placement whose top left cell it is.
        boxes: Box shapes, (height, width) in cells.
        perspectives: "both", "deletion" or "preservation".
    """

    name: ClassVar[str] = "pixab"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ALTERATIONS})

    normalisation: Literal["max", "minmax"] = "minmax"
    score: ScoreKind | None = None
    denominators: Literal["N1", "N2", "N3"] | None = None
    assignment: Assignment = "coverage"
    boxes: tuple[tuple[int, int], ...] = ((1, 1), (1, 2), (2, 1), (2, 2))
    perspectives: Literal["both", "deletion", "preservation"] = "both"

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            shapes = tuple((index(height), index(width)) for height, width in self.boxes)
        except (TypeError, ValueError):
            shapes = ()
        if not shapes or any(not 1 <= side <= MAX_BOX_SIDE for shape in shapes for side in shape):
            raise MethodError(
                f"pixab: boxes={self.boxes!r} must be one or more (height, width) pairs of whole numbers "
                f"from 1 to {MAX_BOX_SIDE}"
            )
        object.__setattr__(self, "boxes", shapes)

    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        height, width = queries.activations.shape[2:]
        placements = place_boxes(self.boxes, (height, width), self.assignment)
        delete, keep = self.perspectives != "preservation", self.perspectives != "deletion"
        several = (8, *queries.targets.shape, len(placements.distinct))
        reserve_for(several, queries.targets, "what boxes' scores are compared by")
        kind = self.score or queries.supported_kind("probability")
        scores, empty = queries.scores(kind), queries.scores_of_zero_activation(kind)
        xp = library(scores)
        scores, empty = xp.astype(scores, xp.float64), xp.astype(empty, xp.float64)
        deleted, kept = queries.scores_with_boxes(placements.distinct, kind, delete=delete, keep=keep)
        falls, gains = self._denominators(kind, scores, empty)
        parts = []
        if deleted is not None:
            parts.append(-score_change(deleted, scores[:, None]) / falls[:, None])
        if kept is not None:
            parts.append(score_change(kept, empty[:, None]) / gains[:, None])
        total = self._mean(placements, sum(parts[1:], start=parts[0]))  # the sum of means, which is linear
        if kind == "probability" and self.score_contrast.is_plain:
            # A probability this small cannot be divided by: the map says nothing.
            small = (scores < MIN_SCORE)[:, :, None, None]
            total = xp.where(small, xp.zeros_like(total), total)
        return xp.astype(total, xp.float32), xp.astype(scores, xp.float32)

    def _denominators(self, kind: ScoreKind, scores: Array, empty: Array) -> tuple[Array, Array]:
        share = kind == "probability" and self.score_contrast.is_plain
        reading = self.denominators or ("N2" if share else "N3")
        if reading == "N3":
            between = clip_min(abs(scores - empty), MIN_SCORE)
            return between, between
        falls = clip_min(abs(scores), MIN_SCORE)
        gains = clip_min(abs(empty), MIN_SCORE) if reading == "N2" else falls
        return falls, gains

    def _mean(self, placements: Placements, values: Array) -> Array:
        """Per-cell mean over placements, then over box shapes: (N, P, T) -> (N, T, h, w)."""
        grids = [grid.mean_per_cell(values) for grid in placements.grids]
        mean = sum(grids[1:], start=grids[0]) / len(grids)
        return library(mean).permute_dims(mean, (0, 3, 1, 2))

    def cost(self, head: Head, shape: MapShape) -> Cost:
        boxes = count_boxes(self.boxes, (shape.height, shape.width), self.assignment)
        passes, why = head.box_passes(boxes)
        return Cost(passes, 0, why)
