"""LIME and KernelSHAP of an image's rectangles, in float64, each as the definition has it.

- LIME (Ribeiro et al., KDD 2016): weighted ridge regression on the image and random parts of it, as a
  least-squares problem with rows for the ridge.
- Shapley values (Lundberg & Lee, NeurIPS 2017, equation 4): the sum over coalitions, and, for drawn
  coalitions, least squares where the last coefficient is what the others leave of the difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["grid_labels", "kernel_shap", "kernel_shap_coalitions", "lime", "lime_samples", "shapley"]

Array = npt.NDArray[Any]
Score = Callable[[Array], float]


def grid_labels(size: tuple[int, int], cells: int) -> Array:
    """Which of the rectangles each pixel lies in, in reading order."""
    rows, columns = (min(cells, side) for side in size)
    labels = np.zeros(size, int)
    for i in range(size[0]):
        for j in range(size[1]):
            labels[i, j] = (i * rows // size[0]) * columns + j * columns // size[1]
    return labels


def shown(image: Array, labels: Array, z: Array, background: Array) -> Array:
    """The image with only some of its parts."""
    return np.where(np.asarray(z, bool)[labels], image.astype(np.float64), background)


def lime_samples(parts: int, passes: int, seed: int) -> Array:
    """z of the image and of the draws."""
    return np.array(
        [np.ones(parts), *(np.random.default_rng([seed, i]).random(parts) < 0.5 for i in range(passes))]
    ).astype(float)


def lime(
    score: Score,
    image: Array,
    labels: Array,
    background: Array,
    *,
    passes: int,
    seed: int,
    width: float,
    ridge: float,
) -> Array:
    """The coefficients."""
    parts = int(labels.max()) + 1
    z = lime_samples(parts, passes, seed)
    y = np.array([score(shown(image, labels, one, background)) for one in z])
    cosine = np.array([one.sum() / math.sqrt(one.sum() * parts) if one.any() else 0.0 for one in z])
    root = np.exp(-((1 - cosine) ** 2) / (2 * width**2)) ** 0.5
    rows = np.concatenate(
        [root[:, None] * np.column_stack([z, np.ones(len(z))]), np.zeros((parts, parts + 1))]
    )
    rows[len(z) :, :parts] = math.sqrt(ridge) * np.eye(parts)
    return np.linalg.lstsq(rows, np.concatenate([root * y, np.zeros(parts)]), rcond=None)[0][:parts]


def shapley(score: Score, image: Array, labels: Array, background: Array) -> Array:
    """The Shapley values."""
    parts = int(labels.max()) + 1
    values = np.zeros(parts)
    for part in range(parts):
        others = [other for other in range(parts) if other != part]
        for size in range(parts):
            share = math.factorial(size) * math.factorial(parts - size - 1) / math.factorial(parts)
            for coalition in combinations(others, size):
                z = np.zeros(parts)
                z[list(coalition)] = 1
                without = score(shown(image, labels, z, background))
                z[part] = 1
                values[part] += share * (score(shown(image, labels, z, background)) - without)
    return values


def kernel_shap_coalitions(parts: int, count: int, seed: int) -> Array:
    """z of the draws: a size by the kernel, then any of it."""
    chances = np.array([(parts - 1) / (k * (parts - k)) for k in range(1, parts)])
    made = np.zeros((count, parts))
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        at, size = rng.random() * chances.sum(), 1
        while at >= chances[:size].sum():
            size += 1
        made[i, rng.permutation(parts)[:size]] = 1
    return made


def kernel_shap(
    score: Score, image: Array, labels: Array, background: Array, *, passes: int, seed: int
) -> Array:
    """φ of drawn coalitions."""
    parts = int(labels.max()) + 1
    z = kernel_shap_coalitions(parts, passes - 1, seed)
    empty = score(shown(image, labels, np.zeros(parts), background))
    difference = score(image.astype(np.float64)) - empty
    y = np.array([score(shown(image, labels, one, background)) for one in z]) - empty
    first = np.linalg.lstsq(z[:, :-1] - z[:, -1:], y - z[:, -1] * difference, rcond=None)[0]
    return np.append(first, difference - first.sum())
