"""The definitions of `box_scores` and `cell_scores` in NumPy, in float64 throughout."""

from __future__ import annotations

from typing import Literal

import numpy as np

from camrt.kernels.box_probabilities import reference
from camrt.kernels.checks import Floats, Ints
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["SMALLEST", "box_scores", "cell_scores", "cell_values", "softmax_at"]

SMALLEST = 1e-12
"""What is divided by is at least this; a probability below it says nothing."""


@ignore_float_errors
def box_scores(
    features: Floats,
    weight: Floats,
    logits: Floats,
    empty_logits: Floats,
    boxes: Ints,
    targets: Ints,
    *,
    scale: float,
) -> tuple[Floats, Floats]:
    """Compute what `camrt.kernels.box_scores.box_scores` documents, unchecked and in float64."""
    cells = scale * features.transpose(0, 2, 3, 1).astype(np.float64)
    contributions = cells @ weight.T.astype(np.float64)
    return (
        reference.box_probabilities(contributions, logits, boxes, targets, sign=-1),
        reference.box_probabilities(contributions, empty_logits, boxes, targets, sign=+1),
    )


@ignore_float_errors
def cell_scores(
    features: Floats,
    weight: Floats,
    logits: Floats,
    empty_logits: Floats,
    boxes: Ints,
    shares: Floats,
    targets: Ints,
    *,
    scale: float,
    reading: Literal["N1", "N2", "N3"],
    perspectives: Literal["both", "deletion", "preservation"],
) -> tuple[Floats, Floats]:
    """Compute what `camrt.kernels.box_scores.cell_scores` documents, unchecked and in float64."""
    deleted, kept = box_scores(features, weight, logits, empty_logits, boxes, targets, scale=scale)
    scores, base = softmax_at(logits, targets), softmax_at(empty_logits, targets)
    values = cell_values(scores, base, deleted, kept, shares, reading=reading, perspectives=perspectives)
    return values, scores


@ignore_float_errors
def cell_values(
    scores: Floats,
    base: Floats,
    deleted: Floats,
    kept: Floats,
    shares: Floats,
    *,
    reading: Literal["N1", "N2", "N3"],
    perspectives: Literal["both", "deletion", "preservation"],
) -> Floats:
    """Compute the values of cells, (N, T, h, w), from probabilities.

    Args:
        scores: Of the whole map, shape (N, T).
        base: Of an empty map, shape (N, T).
        deleted: With each box deleted, shape (N, P, T).
        kept: With nothing but each box, shape (N, P, T).
        shares: How much each box counts in each cell's mean, shape (h, w, P).
        reading: What the two perspectives are divided by.
        perspectives: Which of the two count.
    """
    if reading == "N3":
        falls = gains = np.maximum(np.abs(scores - base), SMALLEST)
    else:
        falls = np.maximum(np.abs(scores), SMALLEST)
        gains = np.maximum(np.abs(base), SMALLEST) if reading == "N2" else falls
    changes = np.zeros(deleted.shape)
    if perspectives != "preservation":
        changes += (scores[:, None] - deleted) / falls[:, None]
    if perspectives != "deletion":
        changes += (kept - base[:, None]) / gains[:, None]
    values = np.empty((*scores.shape, *shares.shape[:2]))
    for i, j in np.ndindex(shares.shape[:2]):
        counted = np.flatnonzero(shares[i, j])  # NaN of a box stays with the cells it counts for
        values[:, :, i, j] = np.einsum("npt,p->nt", changes[:, counted], shares[i, j, counted])
    values[scores < SMALLEST] = 0.0
    return values


@ignore_float_errors
def softmax_at(logits: Floats, targets: Ints) -> Floats:
    """The softmax of logits (N, C) at targets (N, T), in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.take_along_axis(powers / powers.sum(axis=1, keepdims=True), targets, axis=1)
