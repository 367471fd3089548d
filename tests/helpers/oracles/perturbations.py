"""ROAD's imputation, infidelity and max-sensitivity from their papers, pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["best_scaled_infidelity", "impute", "mean_squared_infidelity"]


def impute(image: Any, removed: Any) -> Any:
    """An image (C, H, W) whose removed pixels equal the mean of their neighbours, by one dense system.

    Beside a pixel the weight is 1/6, at its corners 1/12, relative to those that lie in the image.
    """
    channels, height, width = np.shape(image)
    places = [(r, c) for r in range(height) for c in range(width)]
    matrix, right = np.zeros((len(places), len(places))), np.zeros((len(places), channels))
    for own, (r, c) in enumerate(places):
        if not removed[r][c]:
            matrix[own, own], right[own] = 1, [float(image[k][r][c]) for k in range(channels)]
            continue
        around = {
            (r + dr, c + dc): 1 / 12 if dr and dc else 1 / 6
            for dr in (-1, 0, 1)
            for dc in (-1, 0, 1)
            if (dr or dc) and 0 <= r + dr < height and 0 <= c + dc < width
        }
        matrix[own, own] = -1
        for place, weight in around.items():
            matrix[own, places.index(place)] = weight / sum(around.values())
    return np.linalg.solve(matrix, right).T.reshape(channels, height, width)


def mean_squared_infidelity(said: Any, happened: Any) -> float:
    """E (IᵀΦ − Δf)² of one explanation."""
    return sum((float(a) - float(b)) ** 2 for a, b in zip(said, happened, strict=True)) / len(said)


def best_scaled_infidelity(said: Any, happened: Any) -> float:
    """The least of it over multiples of the explanation."""
    design = np.asarray(said, np.float64)[:, None]
    scale = np.linalg.lstsq(design, np.asarray(happened, np.float64), rcond=None)[0]
    return mean_squared_infidelity(design @ scale, happened)
