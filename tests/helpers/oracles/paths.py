"""Integrated gradients along other ways, in float64 by loops, from any function's own values.

- Blur IG: Σ_i (G_i + G_{i+1})/2·(z_i − z_{i+1}), z_i smoothed by σ_i, number by number, zeros around it.
- Guided IG: the authors' procedure for one image: in each step the numbers with the least slopes move, a
  share of all numbers at a time, until the distance that is left is the step's; each at most so far from the
  straight way.
- Expected gradients: the mean of (x − r)·G(r + α(x − r)), given references and αs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from helpers.oracles.gradients import numeric_gradient

__all__ = ["blurred", "expected", "guided_way", "integrated_over_blurs"]

Array = npt.NDArray[np.float64]
Function = Callable[[Array], float]


def blurred(image: Array, sigma: float) -> Array:
    """(C, H, W) smoothed, one pixel at a time."""
    if sigma == 0:
        return image
    reach = range(-int(20 * sigma) - 2, int(20 * sigma) + 3)
    whole = sum(np.exp(-(k**2) / (2 * sigma**2)) for k in reach)
    result = np.zeros(image.shape)
    _, height, width = image.shape
    for i, j, k, m in np.ndindex(height, width, height, width):
        bell = np.exp(-((i - k) ** 2 + (j - m) ** 2) / (2 * sigma**2)) / whole**2
        result[:, i, j] += bell * image[:, k, m]
    return result


def integrated_over_blurs(function: Function, image: Array, steps: int, sigma: float) -> Array:
    images = [blurred(image, sigma * i / steps) for i in range(steps + 1)]
    slopes = [numeric_gradient(function, z) for z in images]
    total = np.zeros(image.shape)
    for i in range(steps):
        total += (slopes[i] + slopes[i + 1]) / 2 * (images[i] - images[i + 1])
    return total


def guided_way(
    slopes_at: Callable[[Array], Array], image: Array, steps: int, fraction: float, distance: float
) -> Array:
    """Of a function whose slopes are given."""
    goal = image.reshape(-1)
    place, total = np.zeros(goal.size), np.zeros(goal.size)
    at_a_time = int(fraction * (goal.size - 1)) + 1
    for step in range(1, steps + 1):
        slopes = slopes_at(place.reshape(image.shape)).reshape(-1)
        before = place.copy()
        share = step / steps
        least, most = max(share - distance, 0.0), min(share + distance, 1.0)
        for i, end in enumerate(goal):
            if end and place[i] / end < least:
                place[i] = end * least
        wanted = np.abs(goal).sum() * (1 - share)
        while (excess := np.abs(goal - place).sum() - wanted) > 1e-9:
            free = [i for i, end in enumerate(goal) if abs(place[i] - end * most) > 1e-12]
            free.sort(key=lambda i: abs(slopes[i]))
            limit = abs(slopes[free[min(at_a_time, len(free)) - 1]])
            chosen = [i for i in free if abs(slopes[i]) <= limit]
            room = sum(abs(goal[i] * most - place[i]) for i in chosen)
            part = min(excess / room, 1.0)
            for i in chosen:
                place[i] += (goal[i] * most - place[i]) * part
        total += (place - before) * slopes
    return total.reshape(image.shape)


def expected(function: Function, draws: Iterable[tuple[Array, Array, float]]) -> Array:
    """Of (reference, image, α) of each draw."""
    parts = [
        (image - reference) * numeric_gradient(function, reference + share * (image - reference))
        for reference, image, share in draws
    ]
    return np.asarray(np.mean(parts, axis=0))
