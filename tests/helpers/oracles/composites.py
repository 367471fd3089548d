"""Coherency, ADCC and ARCC of one map, from their formulas."""

from __future__ import annotations

import math
from statistics import StatisticsError, correlation, harmonic_mean
from typing import Any

__all__ = ["adcc", "arcc", "coherency"]


def coherency(saliency: Any, again: Any) -> float:
    """(1 + Pearson's correlation) / 2 of two maps' values; NaN where one is constant."""
    try:
        return (1 + correlation([float(v) for v in saliency], [float(v) for v in again])) / 2
    except StatisticsError:
        return math.nan


def adcc(coherent: float, complexity: float, drop: float) -> float:
    """Of a map's three figures."""
    return harmonic_mean([coherent, 1 - complexity, 1 - drop])


def arcc(coherent: float, complexity: float, road: float) -> float:
    """The same with (LeRF − MoRF) / 2 of ROAD."""
    return harmonic_mean([coherent, 1 - complexity, min(max(2 * road, 0.0), 1.0)])
