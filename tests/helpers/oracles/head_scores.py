"""What a method may ask about one activation, answered by a score of activations: no model, no rounding.

It stands in for the engine's questions, so that a method's own arithmetic can be tested on any score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["HeadScores"]

Array = npt.NDArray[Any]


class HeadScores:
    """Answers for a batch of one image and all classes.

    Args:
        activation: (K, h, w).
        score: Activation -> scores (C,), whatever kind is asked for.
    """

    def __init__(self, activation: Array, score: Callable[[Array], Array]) -> None:
        self.activations = np.asarray(activation, np.float64)[None]
        self.asked_boxes = 0
        self._score = score
        self.targets = np.arange(len(score(self.activations[0])))[None]

    def supported_kind(self, kind: str) -> str:
        return kind

    def scores(self, kind: str) -> Array:
        """(1, C)."""
        return self._score(self.activations[0])[None]

    def scores_of_zero_activation(self, kind: str) -> Array:
        """(1, C)."""
        return self._score(np.zeros(self.activations.shape[1:]))[None]

    def scores_without_channels(self, kind: str) -> Array:
        """(1, K, C)."""
        answers = []
        for k in range(self.activations.shape[1]):
            altered = self.activations[0].copy()
            altered[k] = 0.0
            answers.append(self._score(altered))
        return np.array(answers)[None]

    def scores_with_boxes(
        self, boxes: Array, kind: str, *, delete: bool, keep: bool
    ) -> tuple[Array | None, Array | None]:
        """(1, P, C) twice: without each box, and with nothing else."""
        self.asked_boxes += len(boxes) * (int(delete) + int(keep))
        deleted, kept = [], []
        for r0, c0, r1, c1 in boxes:
            inside = np.zeros(self.activations.shape[2:])
            inside[r0:r1, c0:c1] = 1.0
            deleted.append(self._score(self.activations[0] * (1 - inside)))
            kept.append(self._score(self.activations[0] * inside))
        return np.array(deleted)[None] if delete else None, np.array(kept)[None] if keep else None
