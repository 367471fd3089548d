"""A class's score held against other classes', in plain Python: s_c − γ · Σ_r q_r · s_r, or its negative.

- rivals given: q_r = 1/R;
- Finer-CAM (Zhang et al., CVPR 2025): the R classes whose logits are nearest to the target's, γ = 0.6;
- as the pytorch-grad-cam package has it: q_r = p_r / Σ p_r, p the softmax of all logits, γ = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["contrasted", "nearest"]

Array = npt.NDArray[Any]


def nearest(logits: Sequence[float], target: int, count: int) -> list[int]:
    """The other classes by how far their logits are from the target's."""
    others = [c for c in range(len(logits)) if c != target]
    return sorted(others, key=lambda c: (abs(logits[c] - logits[target]), c))[:count]


def contrasted(
    scores: Callable[[Array], Array],
    target: int,
    rivals: Sequence[int],
    *,
    strength: float = 1.0,
    weighted: bool = False,
    negated: bool = False,
) -> Callable[[Array], Array]:
    """A function that answers the one score (1,) made of those (C,) that `scores` answers."""

    def score(values: Array) -> Array:
        every = scores(values)
        shares = [1.0 / len(rivals) for _ in rivals]
        if weighted:
            parts = [math.exp(every[c] - max(every)) for c in range(len(every))]
            taken = [parts[c] / sum(parts) for c in rivals]
            shares = [p / sum(taken) for p in taken]
        total = every[target]
        for share, c in zip(shares, rivals, strict=True):
            total -= strength * share * every[c]
        return np.array([-total if negated else total])

    return score
