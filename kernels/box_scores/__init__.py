"""What boxes of cells are worth to a pooled linear head, from its features: Pixab-CAM's two perspectives."""

from __future__ import annotations

import math

from numpy.typing import ArrayLike

from camrt.kernels import IMPLEMENTATION
from camrt.kernels.box_probabilities import box_probabilities_pair
from camrt.kernels.box_scores import reference
from camrt.kernels.checks import (
    Floats,
    check_boxes,
    check_floats,
    check_indices,
    check_map_size,
    thread_count,
)
from camrt.kernels.dispatch import dispatched
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["box_scores"]


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
    boxes, targets = check_boxes(boxes, h, w), check_indices("targets", targets, classes, (n, -1))
    workers = thread_count(threads)
    if IMPLEMENTATION == "native":
        flat = features.reshape(n, channels, h * w).transpose(0, 2, 1)
        cells = (flat * features.dtype.type(scale)) @ weight.T
        contributions = cells.reshape(n, h, w, len(weight))
        return box_probabilities_pair(contributions, logits, empty_logits, boxes, targets, threads=workers)
    deleted, kept = reference.box_scores(features, weight, logits, empty_logits, boxes, targets, scale=scale)
    return deleted.astype(features.dtype), kept.astype(features.dtype)
