"""Score-CAM (Wang et al., CVPR Workshops 2020): L = Σ_k α_k A_k, in three published readings.

With x the image, m_k channel k of the activation upsampled to it and scaled to [0, 1], and f the score:

- "paper": α_k = f(x ∘ m_k) − f(0), half-pixel centres, no epsilon, upsampled before it is scaled;
- "grad-cam" (pytorch-grad-cam): the same order, aligned corners, epsilon 1e-8; α = softmax_k f(x ∘ m_k);
- "torchcam": scaled with epsilon 1e-8 on its own grid, then upsampled with half-pixel centres; the same
  softmax.

A constant channel masks everything: it takes part in the softmax with f(0), and has weight zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from helpers.oracles.postprocess import upsampled

__all__ = ["mask", "score_cam", "weights"]

Array = npt.NDArray[Any]
Definition = Literal["paper", "grad-cam", "torchcam"]


def mask(channel: Array, size: tuple[int, int], definition: Definition) -> Array:
    """m_k (H, W) of one channel (h, w)."""
    if channel.max() == channel.min():
        return np.zeros(size)
    if definition == "torchcam":
        return upsampled((channel - channel.min()) / (channel.max() - channel.min() + 1e-8), size)
    large = upsampled(channel, size, aligned=definition == "grad-cam")
    epsilon = 1e-8 if definition == "grad-cam" else 0.0
    return np.asarray((large - large.min()) / (large.max() - large.min() + epsilon))


def weights(
    score_of_image: Callable[[Array], Array],
    image: Array,
    activation: Array,
    target: int,
    definition: Definition,
) -> Array:
    """α (K,) of an image (C, H, W) with activation (K, h, w)."""
    empty = float(score_of_image(np.zeros(image.shape))[target])
    masked = []
    for channel in activation:
        seen = image * mask(channel, (image.shape[1], image.shape[2]), definition)
        masked.append(float(score_of_image(seen)[target]))
    if definition == "paper":
        alpha = np.array([value - empty for value in masked])
    else:
        raised = np.exp(np.array(masked) - max(masked))
        alpha = raised / raised.sum()
    for k, channel in enumerate(activation):
        if channel.max() == channel.min():
            alpha[k] = 0.0
    return alpha


def score_cam(
    score_of_image: Callable[[Array], Array],
    image: Array,
    activation: Array,
    target: int,
    definition: Definition,
) -> Array:
    """The raw map (h, w)."""
    result = np.zeros(activation.shape[1:])
    alphas = weights(score_of_image, image, activation, target, definition)
    for alpha, channel in zip(alphas, activation, strict=True):
        result += alpha * channel
    return result
