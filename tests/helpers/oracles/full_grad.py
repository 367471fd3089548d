"""FullGrad (Srinivas and Fleuret, NeurIPS 2019) in float64, of a function of an image and of what is added.

What a bias contributes at a cell is the bias times the derivative of the score by a number added there:
derivatives are central differences, the function is known only by what it gives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.oracles.gradients import numeric_gradient
from helpers.oracles.postprocess import upsampled

__all__ = ["contributions", "full_grad"]

Array = npt.NDArray[Any]
Function = Callable[[Array, list[Array]], float]


def contributions(
    function: Function, image: Array, biases: list[Array], shapes: list[tuple[int, ...]]
) -> list[Array]:
    """x ∘ ∂f/∂x, and of each layer b ∘ ∂f/∂b.

    Args:
        function: Of an image and of what is added to each layer's output.
        image: (C, H, W).
        biases: Of each layer, one number a channel.
        shapes: Of each layer's output, (C, h, w) or (C,).
    """
    none = [np.zeros(shape) for shape in shapes]
    found = [image * numeric_gradient(lambda x: function(x, none), image)]
    for number, (bias, shape) in enumerate(zip(biases, shapes, strict=True)):

        def shifted(added: Array, number: int = number) -> float:
            return function(image, [*none[:number], added, *none[number + 1 :]])

        slopes = numeric_gradient(shifted, np.zeros(shape))
        found.append(np.array([b * g for b, g in zip(bias, slopes, strict=True)]))
    return found


def full_grad(parts: list[Array], size: tuple[int, int], *, definition: str = "paper") -> Array:
    """The raw map (H, W) of those contributions that have cells."""
    total = np.zeros(size)
    for part in parts:
        if part.ndim != 3:
            continue
        magnitudes = np.abs(part)
        groups = [magnitudes] if definition == "authors" else [one[None] for one in magnitudes]
        for group in groups:
            low, high = group.min(), group.max()
            added = {"paper": 0.0, "grad-cam": 1e-7, "authors": 1e-6}[definition]
            for channel in group:
                if high - low + added > 0:
                    scaled = (channel - low) / (high - low + added)
                    total += upsampled(scaled, size, aligned=definition == "authors")
    return total
