"""Scores: what a method explains, read off logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from camrt.export.interface import Activation

__all__ = ["ScoreKind", "ScoreReader", "probabilities"]

Array = npt.NDArray[Any]
ScoreKind = Literal["logit", "probability"]


def probabilities(logits: Array, activation: Activation) -> Array:
    """Class probabilities of logits (..., C), float32; NaN where a logit is NaN."""
    wide = logits.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        if activation == "sigmoid":
            # exp of a negative number only: no overflow for either sign.
            small = np.exp(-np.abs(wide))
            return np.where(wide >= 0, 1.0 / (1.0 + small), small / (1.0 + small)).astype(np.float32)
        exponentials = np.exp(wide - wide.max(axis=-1, keepdims=True))
        shares: Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
        return shares.astype(np.float32)


@dataclass(frozen=True)
class ScoreReader:
    """Reads the target classes' scores off logits.

    Attributes:
        targets: (N, T) class indices.
        kind: Logit, or probability after the model's activation.
        activation: How this model's logits become probabilities.
    """

    targets: npt.NDArray[np.int64]
    kind: ScoreKind
    activation: Activation

    def read(self, logits: Array, image: npt.NDArray[np.int64]) -> Array:
        """Scores (B, T) of logits (B, C), row b belonging to picture `image[b]`."""
        values = probabilities(logits, self.activation) if self.needs_softmax else logits
        chosen = np.take_along_axis(values, self.targets[image], axis=1)
        return self.finish(chosen)

    def weighting(self, logits: Array, image: npt.NDArray[np.int64], target: int) -> Array:
        """∂score/∂logits (B, C) of target number `target` of picture `image[b]`, at logits (B, C).

        A logit c has the unit vector e_c. A softmax's p_c has p_c·(e_c − p), a sigmoid's p_c·(1 − p_c)·e_c.
        """
        rows = np.arange(len(logits))
        classes = self.targets[image, target]
        slope = np.zeros(logits.shape, np.float32)
        if self.kind == "logit":
            slope[rows, classes] = 1.0
            return slope
        # 1 − p_c is never computed so: it has no digits left where p_c is nearly one
        if not self.needs_softmax:
            own = logits[rows, classes]
            slope[rows, classes] = probabilities(own, "sigmoid") * probabilities(-own, "sigmoid")
            return slope
        others = probabilities(logits, "softmax")
        chosen = others[rows, classes]
        others[rows, classes] = 0.0
        slope = -others
        slope[rows, classes] = others.sum(axis=1)
        return np.asarray(chosen[:, None] * slope)

    @property
    def needs_softmax(self) -> bool:
        """Whether a target's score depends on the logits of all classes."""
        return self.kind == "probability" and self.activation == "softmax"

    def finish(self, target_logits: Array) -> Array:
        """Scores of the targets' own logits, when they depend on nothing else."""
        if self.kind == "probability" and not self.needs_softmax:
            return probabilities(target_logits, self.activation)
        return target_logits
