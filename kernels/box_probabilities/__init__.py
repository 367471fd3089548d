"""Class probabilities after each box of cells is deleted or preserved: the questions of Pixab-CAM."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from camrt.kernels import IMPLEMENTATION
from camrt.kernels.box_probabilities import reference
from camrt.kernels.checks import Floats, Ints, check_boxes, check_floats, check_indices, thread_count
from camrt.kernels.dispatch import dispatched
from camrt.kernels.float_errors import ignore_float_errors

if IMPLEMENTATION == "native":
    from camrt.kernels import _native

__all__ = ["box_probabilities", "box_probabilities_pair"]


@dispatched(host=("boxes",))
@ignore_float_errors
def box_probabilities(
    contributions: Floats,
    logits: Floats,
    boxes: ArrayLike,
    targets: ArrayLike,
    *,
    sign: int,
    threads: int | None = None,
) -> Floats:
    """Compute the softmax of logits[n] + sign × (sum of contributions over a box) at the targets.

    NaN among the numbers that a probability depends on makes it NaN.

    Args:
        contributions: What each cell adds to each logit, shape (N, h, w, C).
        logits: Shape (N, C), of the same type.
        boxes: Half-open boxes (r0, c0, r1, c1), shape (P, 4), integers.
        targets: Classes asked for, shape (N, T), integers.
        sign: +1 to add what the box contributes, -1 to take it away.
        threads: Number of threads; all of the machine's when None.

    Returns:
        The probabilities, shape (N, P, T), of the type of contributions.

    Raises:
        ValueError: An argument has a wrong type, shape or value, or a box is empty or leaves the map.
    """
    if sign not in (-1, 1):
        raise ValueError(f"sign must be -1 or +1, got {sign}")
    contributions, boxes, targets = _common(contributions, boxes, targets)
    logits = _logits("logits", logits, contributions)
    workers = thread_count(threads)
    if IMPLEMENTATION == "native":
        out = np.empty((len(logits), len(boxes), targets.shape[1]), contributions.dtype)
        _native.box_probabilities(contributions, logits, boxes, targets, sign, out, workers)
        return out
    return reference.box_probabilities(contributions, logits, boxes, targets, sign=sign)


@dispatched(host=("boxes",))
@ignore_float_errors
def box_probabilities_pair(
    contributions: Floats,
    logits_delete: Floats,
    logits_keep: Floats,
    boxes: ArrayLike,
    targets: ArrayLike,
    *,
    threads: int | None = None,
) -> tuple[Floats, Floats]:
    """Compute deletion and preservation together, which costs little more than one of them.

    Args:
        contributions: What each cell adds to each logit, shape (N, h, w, C).
        logits_delete: Logits of the whole map, shape (N, C), of the same type; the box is taken from them.
        logits_keep: Logits of an empty map, shape (N, C), of the same type; the box is added to them.
        boxes: Half-open boxes (r0, c0, r1, c1), shape (P, 4), integers.
        targets: Classes asked for, shape (N, T), integers.
        threads: Number of threads; all of the machine's when None.

    Returns:
        softmax(logits_delete - box) and softmax(logits_keep + box) at the targets, each of shape (N, P, T).

    Raises:
        ValueError: An argument has a wrong type or shape, or a box is empty or leaves the map.
    """
    contributions, boxes, targets = _common(contributions, boxes, targets)
    logits_delete = _logits("logits_delete", logits_delete, contributions)
    logits_keep = _logits("logits_keep", logits_keep, contributions)
    workers = thread_count(threads)
    if IMPLEMENTATION == "native":
        shape = (len(contributions), len(boxes), targets.shape[1])
        deleted = np.empty(shape, contributions.dtype)
        kept = np.empty(shape, contributions.dtype)
        _native.box_probabilities_pair(
            contributions, logits_delete, logits_keep, boxes, targets, deleted, kept, workers
        )
        return deleted, kept
    return (
        reference.box_probabilities(contributions, logits_delete, boxes, targets, sign=-1),
        reference.box_probabilities(contributions, logits_keep, boxes, targets, sign=+1),
    )


def _common(contributions: Floats, boxes: ArrayLike, targets: ArrayLike) -> tuple[Floats, Ints, Ints]:
    contributions = check_floats("contributions", contributions, "N h w C")
    n, h, w, classes = contributions.shape
    if classes < 1:
        raise ValueError("contributions must have at least one class, got 0")
    return contributions, check_boxes(boxes, h, w), check_indices("targets", targets, classes, (n, -1))


def _logits(name: str, logits: Floats, contributions: Floats) -> Floats:
    logits = check_floats(name, logits, "N C", contributions.dtype)
    wanted = (contributions.shape[0], contributions.shape[3])
    if logits.shape != wanted:
        raise ValueError(f"{name} must have shape {wanted} to match contributions, got {logits.shape}")
    return logits
