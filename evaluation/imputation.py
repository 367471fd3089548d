"""Removed pixels guessed from those that are left: ROAD's linear imputation.

Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods" (ICML 2022,
arXiv:2202.00449), with the weights of its code: each removed pixel is the weighted mean of its eight
neighbours, those beside it with twice the weight of those at its corners, removed neighbours included, so
that all of them follow from one sparse system of linear equations. What lies outside the image has no weight.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camrt.engine.extras import import_extra
from camrt.errors import InputError

__all__ = ["NOISE", "impute_pixels"]

NOISE = 0.01
"""Standard deviation of what the paper adds to imputed pixels, lest they be told by their smoothness."""

SMALL_BLOCK = 16
"""Pixels of a block whose order no longer matters."""

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
    rows, columns = np.nonzero(removed)
    order = np.argsort(elimination_order(*removed.shape)[removed])
    rows, columns, count = (
        rows[order] + 1,
        columns[order] + 1,
        len(order),
    )  # there is a border around the image
    unknown = np.full((removed.shape[0] + 2, removed.shape[1] + 2), -1, np.int64)
    unknown[rows, columns] = np.arange(count)
    within = np.zeros(unknown.shape, np.bool_)
    within[1:-1, 1:-1] = True
    known = np.zeros((len(image), *unknown.shape))
    known[:, 1:-1, 1:-1] = np.where(removed, 0.0, filled)
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
        system, permc_spec="NATURAL", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    filled[:, rows - 1, columns - 1] = factors.solve(right).T
    return filled


@lru_cache(maxsize=4)
def elimination_order(height: int, width: int) -> NDArray[np.int64]:
    """The place (H, W) of each pixel in an order in which eliminating pixels couples few of the others.

    Nested dissection (George, SIAM Journal on Numerical Analysis 1973): the two halves of the image, each in
    this order, and then the row or column that parts them.
    """
    order = np.empty((height, width), np.int64)
    _number_pixels(order, 0)
    return order


def _number_pixels(block: NDArray[np.int64], first: int) -> None:
    end = first + block.size
    if block.size <= SMALL_BLOCK:
        block[...] = np.arange(first, end).reshape(block.shape)
        return
    tall = block if block.shape[0] >= block.shape[1] else block.T
    middle, across = tall.shape[0] // 2, tall.shape[1]
    _number_pixels(tall[:middle], first)
    _number_pixels(tall[middle + 1 :], first + middle * across)
    tall[middle] = np.arange(end - across, end)
