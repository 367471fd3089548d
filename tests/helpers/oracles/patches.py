"""Adversarial patches, DAP, DOA and COP of the Pixab-CAM paper, one pixel at a time, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["attack", "cosine_distance", "cross_entropy_slope", "overlap", "pointing_and_share"]

Array = npt.NDArray[Any]
Box = Sequence[int]


def attack(
    model: Callable[[Array], tuple[Array, Array]],
    shape: tuple[int, int, int],
    box: Box,
    target: int,
    low: Sequence[float],
    high: Sequence[float],
    *,
    eta: float,
    steps: int,
    confidence: float,
) -> tuple[Array, bool, int, float]:
    """x ← clip(x − η·(high − low)·sign(slope)·m) until the target is first with p_t ≥ confidence.

    `model` takes one image and gives its probabilities and the cross-entropy's slope towards the target.
    Returns the image, whether it got there, the steps, p_t.
    """
    image = np.zeros(shape)
    for step in range(steps + 1):
        shares, slope = model(image)
        if shares[target] >= confidence and all(shares[target] >= other for other in shares):
            return image, True, step, float(shares[target])
        if step == steps:
            break
        moved = image.copy()
        for c in range(shape[0]):
            for i in range(box[0], box[2]):
                for j in range(box[1], box[3]):
                    direction = (slope[c, i, j] > 0) * 1.0 - (slope[c, i, j] < 0) * 1.0
                    value = image[c, i, j] - eta * (high[c] - low[c]) * direction
                    moved[c, i, j] = min(max(value, low[c]), high[c])
        if (moved == image).all():
            break
        image = moved
    return image, False, step, float(shares[target])


def cross_entropy_slope(logits: Callable[[Array], Array], image: Array, target: int, width: float) -> Array:
    """−∂ log softmax(logits)_t/∂x by central differences, for an image (C, H, W)."""

    def loss(altered: Array) -> float:
        values = logits(altered)
        top = max(values)
        return math.log(sum(math.exp(value - top) for value in values)) + top - values[target]

    slope = np.zeros(image.shape)
    for place in np.ndindex(*image.shape):
        up, down = image.astype(np.float64), image.astype(np.float64)
        up[place] += width
        down[place] -= width
        slope[place] = (loss(up) - loss(down)) / (2 * width)
    return slope


def pointing_and_share(saliency: Array, box: Box) -> tuple[bool, float]:
    """Whether the first highest pixel is in the box, and Σ_box / Σ; a map of zeros has neither."""
    best, place, inside, whole = -1.0, (-1, -1), 0.0, 0.0
    for i in range(saliency.shape[0]):
        for j in range(saliency.shape[1]):
            value = float(saliency[i, j])
            if value > best:
                best, place = value, (i, j)
            whole += value
            if box[0] <= i < box[2] and box[1] <= j < box[3]:
                inside += value
    if whole == 0:
        return False, 0.0
    return box[0] <= place[0] < box[2] and box[1] <= place[1] < box[3], inside / whole


def cosine_distance(one: Array, other: Array) -> float:
    """1 − Σ ab / √(Σ a² Σ b²); NaN for a map of zeros."""
    ab = aa = bb = 0.0
    for a, b in zip(one.ravel().tolist(), other.ravel().tolist(), strict=True):
        ab, aa, bb = ab + a * b, aa + a * a, bb + b * b
    return 1 - ab / math.sqrt(aa * bb) if aa and bb else math.nan


def upsampled(cells: Array, size: tuple[int, int]) -> Array:
    """Bilinear with half-pixel centres, clamped at the border."""

    def sources(count: int, wanted: int) -> list[tuple[int, int, float]]:
        rows = []
        for i in range(wanted):
            s = max((i + 0.5) * count / wanted - 0.5, 0.0)
            first = min(int(s), count - 1)
            rows.append((first, min(first + 1, count - 1), s - first))
        return rows

    rows, columns = sources(cells.shape[0], size[0]), sources(cells.shape[1], size[1])
    result = np.zeros(size)
    for i, (above, below, s) in enumerate(rows):
        for j, (left, right, t) in enumerate(columns):
            top = (1 - t) * cells[above, left] + t * cells[above, right]
            bottom = (1 - t) * cells[below, left] + t * cells[below, right]
            result[i, j] = (1 - s) * top + s * bottom
    return result


def overlap(
    weights: Array,
    activation: Array,
    size: tuple[int, int],
    boxes: Sequence[Box],
    target: int,
    top: int,
    cover: float,
    level: float,
) -> int:
    """How many of the `top` channels cover the target's patch and another patch."""
    ranked = sorted(range(len(weights)), key=lambda k: (-weights[k], k))[:top]
    count = 0
    for k in ranked:
        pixels = upsampled(activation[k], size)
        if activation[k].max() == activation[k].min():  # which rounding might hide in the pixels
            continue
        lowest, highest = pixels.min(), pixels.max()
        covered = []
        for r0, c0, r1, c1 in boxes:
            active = 0
            for i in range(r0, r1):
                for j in range(c0, c1):
                    if (pixels[i, j] - lowest) / (highest - lowest) > level:
                        active += 1
            covered.append(active > cover * (r1 - r0) * (c1 - c0))
        others = [flag for k2, flag in enumerate(covered) if k2 != target]
        count += covered[target] and any(others)
    return count
