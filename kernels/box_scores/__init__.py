"""What boxes of cells are worth to a pooled linear head, from its features: Pixab-CAM's two perspectives."""

from __future__ import annotations

import math
from typing import Literal

from numpy.typing import ArrayLike

from camrt.kernels import IMPLEMENTATION
from camrt.kernels.box_probabilities import box_probabilities_pair
from camrt.kernels.box_scores import reference
from camrt.kernels.checks import (
    Floats,
    Ints,
    check_boxes,
    check_floats,
    check_indices,
    check_map_size,
    thread_count,
)
from camrt.kernels.dispatch import dispatched
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["box_scores", "cell_scores"]


@dispatched(host=("boxes",))
@ignore_float_errors
def box_scores(
    features: Floats,
    weight: Floats,
    logits: Floats,
    empty_logits: Floats,
    boxes: ArrayLike,
    targets: ArrayLike,
    *,
    scale: float,
    threads: int | None = None,
) -> tuple[Floats, Floats]:
    """Compute the targets' probabilities with each box of cells deleted, and with nothing but it kept.

    A cell contributes x_ij = scale × W · features_ij to the logits. Deleting a box leaves
    softmax(logits − sum of x), keeping it alone softmax(empty_logits + sum of x). NaN among the numbers that
    a probability depends on makes it NaN.

    Args:
        features: φ(A) − φ(0), what cells send to the pooling, shape (N, K, h, w).
        weight: Of the linear layer, shape (C, K), of the same type.
        logits: Of the whole map, shape (N, C), of the same type.
        empty_logits: The logits of an empty map, shape (N, C), of the same type.
        boxes: Half-open boxes (r0, c0, r1, c1), shape (P, 4), integers.
        targets: Classes asked for, shape (N, T), integers.
        scale: What a cell's features are multiplied by: 1/hw for a mean over cells.
        threads: Number of threads; all of the machine's when None.

    Returns:
        The probabilities after deletion and after preservation, each (N, P, T), of the type of features.

    Raises:
        ValueError: An argument has a wrong type, shape or value, or a box is empty or leaves the map.
    """
    features, weight, logits, empty_logits, boxes, targets = _check(
        features, weight, logits, empty_logits, boxes, targets, scale
    )
    return _solve(features, weight, logits, empty_logits, boxes, targets, scale, thread_count(threads))


@ignore_float_errors
def cell_scores(
    features: Floats,
    weight: Floats,
    logits: Floats,
    empty_logits: Floats,
    boxes: ArrayLike,
    shares: Floats,
    targets: ArrayLike,
    *,
    scale: float,
    reading: Literal["N1", "N2", "N3"] = "N2",
    perspectives: Literal["both", "deletion", "preservation"] = "both",
    threads: int | None = None,
) -> tuple[Floats, Floats]:
    """Compute the value that Pixab-CAM gives each cell, from what deleting and keeping boxes do.

    With Y the probability of the whole map, Y₀ of an empty one, Y_−b with box b deleted, Y_+b with it kept,

        value_ij = Σ_b shares_ijb ((Y − Y_−b) / D + (Y_+b − Y₀) / P)

    and zero where Y is below 1e-12. What is divided by is at least 1e-12.

    Args:
        features: φ(A) − φ(0), what cells send to the pooling, shape (N, K, h, w).
        weight: Of the linear layer, shape (C, K), of the same type.
        logits: Of the whole map, shape (N, C), of the same type.
        empty_logits: The logits of an empty map, shape (N, C), of the same type.
        boxes: Half-open boxes (r0, c0, r1, c1), shape (P, 4), integers.
        shares: How much each box counts in each cell's mean, shape (h, w, P), of the same type. A box that
            counts for nothing is left out, NaN or not.
        targets: Classes asked for, shape (N, T), integers.
        scale: What a cell's features are multiplied by: 1/hw for a mean over cells.
        reading: (D, P): "N1" both Y; "N2" Y and Y₀; "N3" both |Y − Y₀|.
        perspectives: Which of the two terms count: "both", "deletion" or "preservation".
        threads: Number of threads; all of the machine's when None.

    Returns:
        The values, shape (N, T, h, w), and the targets' probabilities of the whole map, (N, T), of the type
        of features.

    Raises:
        ValueError: An argument has a wrong type, shape or value, or a box is empty or leaves the map.
    """
    features, weight, logits, empty_logits, boxes, targets = _check(
        features, weight, logits, empty_logits, boxes, targets, scale
    )
    shares = check_floats("shares", shares, "h w P", features.dtype)
    if shares.shape != (*features.shape[2:], len(boxes)):
        raise ValueError(
            f"shares must have shape {(*features.shape[2:], len(boxes))}, got {tuple(shares.shape)}"
        )
    if reading not in ("N1", "N2", "N3"):
        raise ValueError(f"reading must be 'N1', 'N2' or 'N3', got {reading!r}")
    if perspectives not in ("both", "deletion", "preservation"):
        raise ValueError(f"perspectives must be 'both', 'deletion' or 'preservation', got {perspectives!r}")
    deleted, kept = _solve(
        features, weight, logits, empty_logits, boxes, targets, scale, thread_count(threads)
    )
    scores, base = reference.softmax_at(logits, targets), reference.softmax_at(empty_logits, targets)
    values = reference.cell_values(
        scores, base, deleted, kept, shares, reading=reading, perspectives=perspectives
    )
    return values.astype(features.dtype), scores.astype(features.dtype)


def _solve(
    features: Floats,
    weight: Floats,
    logits: Floats,
    empty_logits: Floats,
    boxes: Ints,
    targets: Ints,
    scale: float,
    threads: int,
) -> tuple[Floats, Floats]:
    if IMPLEMENTATION == "native":
        n, channels, h, w = features.shape
        flat = features.reshape(n, channels, h * w).transpose(0, 2, 1)
        cells = (flat * features.dtype.type(scale)) @ weight.T
        contributions = cells.reshape(n, h, w, len(weight))
        return box_probabilities_pair(contributions, logits, empty_logits, boxes, targets, threads=threads)
    deleted, kept = reference.box_scores(features, weight, logits, empty_logits, boxes, targets, scale=scale)
    return deleted.astype(features.dtype), kept.astype(features.dtype)


def _check(
    features: Floats,
    weight: Floats,
    logits: Floats,
    empty_logits: Floats,
    boxes: ArrayLike,
    targets: ArrayLike,
    scale: float,
) -> tuple[Floats, Floats, Floats, Floats, Ints, Ints]:
    features = check_floats("features", features, "N K h w")
    n, channels, h, w = features.shape
    check_map_size("features", h, w)
    weight = check_floats("weight", weight, "C K", features.dtype)
    classes = len(weight)
    if classes < 1 or weight.shape[1] != channels:
        raise ValueError(
            f"weight must have at least one class and {channels} channels like features, got {weight.shape}"
        )
    logits = check_floats("logits", logits, "N C", features.dtype)
    empty_logits = check_floats("empty_logits", empty_logits, "N C", features.dtype)
    for name, one in (("logits", logits), ("empty_logits", empty_logits)):
        if one.shape != (n, classes):
            raise ValueError(f"{name} must have shape {(n, classes)}, got {one.shape}")
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
    return (
        features, weight, logits, empty_logits,
        check_boxes(boxes, h, w), check_indices("targets", targets, classes, (n, -1)),
    )  # fmt: skip
