"""Sparseness and complexity from their papers' sums, one value after another."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["entropy", "gini"]


def gini(values: Sequence[float]) -> float:
    """1 − 2 Σ_k v_(k)/‖v‖₁ · (d − k + ½)/d over sorted magnitudes, k from 1 (Hurley and Rickard 2009)."""
    magnitudes = sorted(abs(value) for value in values)
    total, count = math.fsum(magnitudes), len(magnitudes)
    if total == 0:
        return math.nan
    parts = (v / total * (count - k + 0.5) / count for k, v in enumerate(magnitudes, start=1))
    return 1 - 2 * math.fsum(parts)


def entropy(values: Sequence[float]) -> float:
    """−Σ p ln p of the shares of the sum of magnitudes."""
    magnitudes = [abs(value) for value in values]
    total = math.fsum(magnitudes)
    if total == 0:
        return math.nan
    shares = [v / total for v in magnitudes]
    return -math.fsum(p * math.log(p) for p in shares if p > 0)
