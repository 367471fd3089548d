"""Removed pixels guessed from those that are left: ROAD's linear imputation.

Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods" (ICML 2022,
arXiv:2202.00449), with the weights of its code: each removed pixel is the weighted mean of its eight
neighbours, those beside it with twice the weight of those at its corners, removed neighbours included, so
that all of them follow from one sparse system of linear equations. What lies outside the image has no weight.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from camrt.errors import InputError
from camrt.evaluation.extras import import_extra

__all__ = ["NOISE", "impute_pixels"]

NOISE = 0.01
"""Standard deviation of what the paper adds to imputed pixels, lest they be told by their smoothness."""

_NEIGHBOURS = tuple(
    (row, column, 1.0 if row and column else 2.0)
    for row in (-1, 0, 1)
    for column in (-1, 0, 1)
    if row or column
)
"""Where the neighbours lie, and their weights, up to a factor."""


def impute_pixels(image: NDArray[np.floating[Any]], removed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """An image (C, H, W) whose removed pixels follow from the others; no noise is added.

    Args:
        image: The image; the values of removed pixels are not looked at.
        removed: bool (H, W).

    Raises:
        InputError: Shapes that do not fit, or no pixel is left.
        MissingExtraError: SciPy is not installed.
    """
    if image.ndim != 3 or removed.shape != image.shape[1:] or removed.dtype != np.bool_:
        raise InputError(
            f"an image (C, H, W) and removed pixels, bool (H, W), not {image.shape}, {removed.shape}"
        )
    if removed.all():
        raise InputError("no pixel is left to impute the others from")
    filled = np.array(image, np.float64)
    if not removed.any():
        return filled
    sparse, solvers = import_extra("scipy.sparse"), import_extra("scipy.sparse.linalg")
    count = int(removed.sum())
    unknown = np.full((removed.shape[0] + 2, removed.shape[1] + 2), -1, np.int64)  # a border around the image
    unknown[1:-1, 1:-1][removed] = np.arange(count)
    within = np.zeros(unknown.shape, np.bool_)
    within[1:-1, 1:-1] = True
    known = np.zeros((len(image), *unknown.shape))
    known[:, 1:-1, 1:-1] = np.where(removed, 0.0, filled)
    rows, columns = np.nonzero(np.pad(removed, 1))
    total, right, pairs = np.zeros(count), np.zeros((count, len(image))), []
    for down, across, weight in _NEIGHBOURS:
        at = (rows + down, columns + across)
        total += weight * within[at]
        right += weight * known[:, at[0], at[1]].T
        (own,) = np.nonzero(unknown[at] >= 0)
        pairs.append((own, unknown[at][own], np.full(len(own), -weight)))
    pairs.append((np.arange(count), np.arange(count), total))
    first, second, values = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    system = sparse.csc_matrix((values, (first, second)), shape=(count, count))
    # The matrix is symmetric and diagonally dominant, so that no pivoting is needed.
    factors = solvers.splu(
        system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    filled[:, removed] = factors.solve(right).T
    return filled
