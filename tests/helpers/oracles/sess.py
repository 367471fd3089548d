"""SESS (Tursun et al., ECCV 2022) by loops: maps of windows of enlarged images, weighted and laid back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.oracles.postprocess import upsampled

__all__ = ["sess"]

Array = npt.NDArray[Any]


def starts(side: int, enlarged: int, moved: int) -> list[int]:
    """Where windows begin; one that would stick out is moved back, and is the last."""
    found = []
    at = 0
    while at + side < enlarged:
        found.append(at)
        at += moved
    return [*found, enlarged - side]


def sess(
    image: Array,
    saliency: Callable[[Array], Array],
    weight: Callable[[Array], float],
    *,
    scales: int,
    step: float = 2 / 7,
    stride: float = 1.0,
    pool: str = "mean",
    theta: float = 0.0,
    discard: float = 0.0,
) -> Array:
    """The map (H, W) of an image (C, H, W), before the blur.

    Args:
        image: The image.
        saliency: Window (C, H, W) -> its map (H, W) in [0, 1].
        weight: Window -> the target's probability.
        scales: Sizes.
        step: Growth.
        stride: Of windows.
        pool: Mean or max.
        theta: Threshold.
        discard: Share of windows that are left out.
    """
    height, width = image.shape[1:]
    found = []
    for i in range(scales):
        size = (height + round(height * step) * i, width + round(width * step) * i)
        large = np.array([upsampled(colour.astype(np.float64), size) for colour in image])
        for y in starts(height, size[0], max(round(height * stride), 1)):
            for x in starts(width, size[1], max(round(width * stride), 1)):
                window = large[:, y : y + height, x : x + width]
                canvas = np.zeros(size)
                canvas[y : y + height, x : x + width] = saliency(window)
                found.append((weight(window), upsampled(canvas, (height, width))))
    order = sorted(range(len(found)), key=lambda n: found[n][0])[int(len(found) * discard) :]
    most = max(found[n][0] for n in order)
    total, counts = np.zeros((height, width)), np.zeros((height, width))
    for n in order:
        laid = found[n][0] / most * found[n][1]
        if pool == "max":
            total = np.maximum(total, laid)
        else:
            total += np.where(laid > theta, laid, 0)
            counts += laid > theta
    return total if pool == "max" else np.divide(total, counts, out=np.zeros_like(total), where=counts > 0)
