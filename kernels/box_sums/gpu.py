"""`box_sums` on a GPU, in torch: a product with the masks of the boxes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike

from camrt.kernels.caches import cache_by_bytes
from camrt.kernels.checks import check_boxes

__all__ = ["box_sums"]


def box_sums(cells: torch.Tensor, boxes: ArrayLike) -> torch.Tensor:
    """Sum the cells of every box, in float64 arithmetic. Few features are expected: those of targets.

    Args:
        cells: One vector a cell, shape (N, h, w, F).
        boxes: Half-open boxes (r0, c0, r1, c1), shape (P, 4), integers, on the host.

    Returns:
        The sums, shape (N, P, F), of the type of cells.

    Raises:
        ValueError: Boxes have a wrong type or shape, or one is empty or leaves the map.
    """
    count, height, width, features = cells.shape
    inside = _masks(check_boxes(boxes, height, width).tobytes(), (height, width), cells.device)
    sums = torch.matmul(inside, cells.reshape(count, height * width, features).double())
    return sums.to(cells.dtype)


@cache_by_bytes()
def _masks(boxes: bytes, cells: tuple[int, int], device: torch.device) -> torch.Tensor:
    """(P, h·w) float64: one for each cell of a box, else zero."""
    listed = np.frombuffer(boxes, np.int64).reshape(-1, 4)
    inside = np.zeros((len(listed), *cells))
    for row, (r0, c0, r1, c1) in zip(inside, listed, strict=True):
        row[r0:r1, c0:c1] = 1
    return torch.from_numpy(inside.reshape(len(listed), -1)).to(device)
