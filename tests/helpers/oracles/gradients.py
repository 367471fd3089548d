"""The Grad-CAM family and the gradient baselines, in float64 by loops, from any function's own values.

Gradients are central differences: the function is known only by what it gives. Second-order errors are of the
order of the step squared, 1e-10 of a smooth function of order one.

- Grad-CAM: α_k = mean G_k; XGrad-CAM: α_k = Σ G_k·A_k / Σ A_k; L = Σ_k α_k A_k.
- Grad-CAM++: α_k = Σ w·relu(G_k), w = G²/(2G² + S_k·G³).
- HiResCAM: L = Σ_k G_k·A_k; LayerCAM: L = Σ_k relu(G_k)·A_k; of elements: L = Σ_k relu(G_k·A_k).
- V(x) = max over colours of |∂f/∂x|.

At the empty image a network without biases stands at the corner of every ReLU, where nothing passes back
and differences say otherwise: what the gradient is there is an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "METHODS",
    "hessian_product",
    "integrated",
    "integrated_textbook",
    "numeric_gradient",
    "shapley_cam",
    "smooth_grad_cam_plus_plus",
    "strongest",
]

Array = npt.NDArray[Any]
STEP = 1e-5


def numeric_gradient(function: Callable[[Array], float], at: Array) -> Array:
    """∂f/∂x by central differences."""
    at = np.asarray(at, np.float64)
    result = np.zeros(at.shape)
    for index in np.ndindex(at.shape):
        for sign in (1.0, -1.0):
            moved = at.copy()
            moved[index] += sign * STEP
            result[index] += sign * function(moved) / (2.0 * STEP)
    return result


def weighted(weights: Array, activation: Array) -> Array:
    result = np.zeros(activation.shape[1:])
    for k, weight in enumerate(weights):
        result += weight * activation[k]
    return result


def grad_cam(gradient: Array, activation: Array) -> Array:
    return weighted(np.array([g.mean() for g in gradient]), activation)


def xgrad_cam(gradient: Array, activation: Array) -> Array:
    weights = [
        0.0 if a.sum() == 0 else (g * a).sum() / a.sum() for g, a in zip(gradient, activation, strict=True)
    ]
    return weighted(np.array(weights), activation)


def grad_cam_plus_plus(gradient: Array, activation: Array) -> Array:
    weights = []
    for g, a in zip(gradient, activation, strict=True):
        total = 0.0
        for value in g.reshape(-1):
            below = 2.0 * value**2 + a.sum() * value**3
            if value > 0 and below != 0:
                total += value**2 / below * value
        weights.append(total)
    return weighted(np.array(weights), activation)


def hires_cam(gradient: Array, activation: Array) -> Array:
    return np.asarray((gradient * activation).sum(axis=0))


def layer_cam(gradient: Array, activation: Array) -> Array:
    return np.asarray((np.maximum(gradient, 0) * activation).sum(axis=0))


def grad_cam_elementwise(gradient: Array, activation: Array) -> Array:
    return np.asarray(np.maximum(gradient * activation, 0).sum(axis=0))


METHODS: dict[str, Callable[[Array, Array], Array]] = {
    "gradcam": grad_cam,
    "gradcam++": grad_cam_plus_plus,
    "xgradcam": xgrad_cam,
    "hirescam": hires_cam,
    "layercam": layer_cam,
    "gradcam-elementwise": grad_cam_elementwise,
}


def strongest(gradient: Array) -> Array:
    """V of a gradient (C, H, W)."""
    return np.asarray(np.abs(gradient).max(axis=0))


def integrated(function: Callable[[Array], float], image: Array, steps: int, empty: Array) -> Array:
    """CALM's code: (1/N)·Σ_{t=0..N} V(x·t/N), given the gradient at zero."""
    total = strongest(empty)
    for t in range(1, steps + 1):
        total = total + strongest(numeric_gradient(function, image * t / steps))
    return total / steps


def integrated_textbook(function: Callable[[Array], float], image: Array, steps: int, empty: Array) -> Array:
    """x times the trapezoid rule's integral of the gradient from zero to x, (C, H, W), given that at zero."""
    total = np.zeros(image.shape)
    before = empty
    for t in range(1, steps + 1):
        after = numeric_gradient(function, image * t / steps)
        total += (before + after) / 2.0
        before = after
    return image * total / steps


def hessian_product(function: Callable[[Array], float], at: Array, direction: Array) -> Array:
    """(∂²f/∂x²)·v by central differences of the gradient, good to about 1e-6 of a smooth function's own."""
    step = 1e-4 / max(1.0, float(np.abs(direction).max()))
    ahead, behind = (numeric_gradient(function, at + sign * step * direction) for sign in (1, -1))
    return (ahead - behind) / (2 * step)


def shapley_cam(function: Callable[[Array], float], activation: Array) -> Array:
    """ShapleyCAM (Cai, 2025): α_k = mean (G_k − (H·A)_k/2)."""
    slopes = numeric_gradient(function, activation) - hessian_product(function, activation, activation) / 2
    return grad_cam(slopes, activation)


def smooth_grad_cam_plus_plus(
    gradients: list[Array], activation: Array, last: Array, *, definition: str
) -> Array:
    """Smooth Grad-CAM++ (Omeiza et al., 2019) of the gradients at noisy images, or torchcam's.

    `last` is the activation at the last of them, which torchcam shows.
    """
    weights = []
    for k, channel in enumerate(activation):
        each = [gradient[k].reshape(-1) for gradient in gradients]
        first, second, third = (sum(g**power for g in each) / len(each) for power in (1, 2, 3))
        weight = 0.0
        for place in range(channel.size):
            if definition == "paper":
                below = 2 * second[place] + channel.sum() * third[place]
                share, slope = 0.0 if below == 0 else first[place] / below, first[place]
            else:
                below = 2 * second[place] + (third * channel.reshape(-1)).sum() + 1e-8
                share, slope = second[place] / below, each[-1][place]
            weight += share * max(slope, 0.0)
        weights.append(weight)
    return weighted(np.array(weights), activation if definition == "paper" else last)
