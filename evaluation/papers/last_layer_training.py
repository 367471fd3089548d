"""Training a classifier's last layer alone, on images of other classes.

"Pixab-CAM: Attend Pixel, not Channel" (ICLR 2022 submission), Figure 12, trains so an ImageNet VGG-16 on
brain MRI images and states no setting (specification E13). Ours: four fifths of each class to train on,
Adam with a learning rate of 0.001, 30 epochs, cross-entropy, batches of 32. Dropout before the layer is off:
the rest of the network is in use and not in training, so that what the layer reads is computed once.

The arithmetic is float64's, which takes a moment for a few thousand numbers an image, and needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from camrt.errors import DataError, InputError
from camrt.kernels.float_errors import ignore_float_errors

__all__ = [
    "LastLayerSettings",
    "LinearLayer",
    "accuracy_share",
    "draw_held_out",
    "initialise_layer",
    "train_layer",
]

Array = npt.NDArray[np.float64]
Classes = npt.NDArray[np.int64]

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
"""Adam's, see "Adam: A Method for Stochastic Optimization" (Kingma and Ba, 2015), Algorithm 1."""


@dataclass(frozen=True, kw_only=True)
class LastLayerSettings:
    """How a last layer is trained.

    Attributes:
        epochs: How many times each image is shown.
        lr: Adam's learning rate.
        batch_size: Images a step.
        share: The share of each class that is held out.
        seed: Of the layer's first weights, of the order, and of what is held out.

    Raises:
        InputError: A value out of range.
    """

    epochs: int = 30
    lr: float = 1e-3
    batch_size: int = 32
    share: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.seed < 0:
            raise InputError(
                f"epochs={self.epochs} and batch_size={self.batch_size} must be at least 1, and "
                f"seed={self.seed} not negative"
            )
        if not 0 < self.lr < math.inf or not 0 < self.share < 1:
            raise InputError(f"lr={self.lr} must be positive, and share={self.share} between 0 and 1")


@dataclass(frozen=True, eq=False)
class LinearLayer:
    """A linear layer.

    Attributes:
        weight: (C, K).
        bias: (C,).
    """

    weight: Array
    bias: Array

    def logits(self, features: Array) -> Array:
        """(N, K) to (N, C)."""
        found: Array = features @ self.weight.T + self.bias
        return found


def draw_held_out(classes: Classes, labels: Sequence[str], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which images are held out: a share of each class, drawn, at least one and never all; (N,).

    Raises:
        DataError: A class has fewer than two images.
    """
    rng = np.random.default_rng(seed)
    held = np.zeros(len(classes), np.bool_)
    for index, name in enumerate(labels):
        members = np.flatnonzero(classes == index)
        if len(members) < 2:
            raise DataError(
                f"class {name!r} has {len(members)} images that can be read: two are needed, one to train "
                "on and one to look at"
            )
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held[rng.permutation(members)[:count]] = True
    return held


def initialise_layer(inputs: int, classes: int, seed: int) -> LinearLayer:
    """A layer before training: uniform within ± 1/√K, as torch begins its linear layers."""
    rng = np.random.default_rng(seed)
    bound = 1 / math.sqrt(inputs)
    return LinearLayer(rng.uniform(-bound, bound, (classes, inputs)), rng.uniform(-bound, bound, classes))


@ignore_float_errors
def train_layer(
    features: Array, classes: Classes, count: int, settings: LastLayerSettings
) -> tuple[LinearLayer, list[float]]:
    """Trains a layer by cross-entropy with Adam.

    Args:
        features: (N, K), what the layer reads of each image.
        classes: (N,).
        count: C.
        settings: See `LastLayerSettings`.

    Returns:
        The layer, and the mean loss of each epoch.

    Raises:
        InputError: Features that are not finite or of another shape, or a loss that is not finite.
    """
    if features.ndim != 2 or len(features) != len(classes) or not np.isfinite(features).all():
        raise InputError(f"features {features.shape} must be (N, K) and finite, for {len(classes)} classes")
    layer = initialise_layer(features.shape[1], count, settings.seed)
    values = [layer.weight.copy(), layer.bias.copy()]
    first, second = ([np.zeros_like(value) for value in values] for _ in range(2))
    losses: list[float] = []
    step = 0
    for epoch in range(settings.epochs):
        order = np.random.default_rng((settings.seed, epoch)).permutation(len(features))
        total = 0.0
        for start in range(0, len(order), settings.batch_size):
            chosen = order[start : start + settings.batch_size]
            loss, gradients = loss_and_gradients(LinearLayer(*values), features[chosen], classes[chosen])
            total += loss * len(chosen)
            step += 1
            for value, gradient, mean, square in zip(values, gradients, first, second, strict=True):
                mean += (1 - ADAM_BETAS[0]) * (gradient - mean)
                square += (1 - ADAM_BETAS[1]) * (gradient**2 - square)
                scale = np.sqrt(square / (1 - ADAM_BETAS[1] ** step)) + ADAM_EPSILON
                value -= settings.lr * mean / (1 - ADAM_BETAS[0] ** step) / scale
        losses.append(total / len(order))
        if not math.isfinite(losses[-1]):
            raise InputError(f"the loss is {losses[-1]} in epoch {epoch + 1}: a smaller lr may help")
    return LinearLayer(*values), losses


def loss_and_gradients(
    layer: LinearLayer, features: Array, classes: Classes
) -> tuple[float, tuple[Array, Array]]:
    """Mean cross-entropy, and its gradient by weight and bias: (p − y) xᵀ / N."""
    logits = layer.logits(features)
    logits -= logits.max(axis=1, keepdims=True)
    probabilities = np.exp(logits)
    sums = probabilities.sum(axis=1, keepdims=True)
    rows = np.arange(len(classes))
    loss = float((np.log(sums[:, 0]) - logits[rows, classes]).mean())
    probabilities /= sums
    probabilities[rows, classes] -= 1
    probabilities /= len(classes)
    return loss, (probabilities.T @ features, probabilities.sum(axis=0))


def accuracy_share(layer: LinearLayer, features: Array, classes: Classes) -> float:
    """The share of images whose best class is the true one."""
    return float((layer.logits(features).argmax(axis=1) == classes).mean())
