"""Average precision in exact fractions, one threshold after another.

"Evaluating Weakly Supervised Object Localization Methods Right" (CVPR 2020), section 3.4: precision and
recall of {score >= τ}, and Σ_n P_n (R_n − R_{n−1}) from the highest threshold down.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

__all__ = ["average_precision", "binned", "counted"]


def average_precision(scores: Sequence[float], marks: Sequence[int]) -> Fraction:
    """Every different score as a threshold."""
    pairs = [(float(score), mark) for score, mark in zip(scores, marks, strict=True) if mark != 255]
    return _area(pairs, sorted({score for score, _ in pairs}, reverse=True))


def binned(scores: Sequence[float], marks: Sequence[int], edges: Sequence[float]) -> Fraction:
    """The lower edges of bins as thresholds; what lies outside all bins is nowhere."""
    inside = [
        (float(score), mark)
        for score, mark in zip(scores, marks, strict=True)
        if mark != 255 and edges[0] <= score <= edges[-1]
    ]
    return _area(inside, sorted(edges[:-1], reverse=True))


def counted(scores: Sequence[float], marks: Sequence[int], edges: Sequence[float]) -> list[list[int]]:
    """Negatives and positives in each bin, one comparison after another."""
    rows = [[0] * (len(edges) - 1) for _ in range(2)]
    for score, mark in zip(scores, marks, strict=True):
        for i in range(len(edges) - 1):
            at_the_top = i == len(edges) - 2 and score == edges[-1]
            if mark != 255 and (edges[i] <= score < edges[i + 1] or at_the_top):
                rows[mark][i] += 1
    return rows


def _area(pairs: list[tuple[float, int]], thresholds: list[float]) -> Fraction:
    positives = sum(mark for _, mark in pairs)
    total, recall = Fraction(0), Fraction(0)
    for threshold in thresholds:
        above = [mark for score, mark in pairs if score >= threshold]
        if above:
            now = Fraction(sum(above), positives)
            total += Fraction(sum(above), len(above)) * (now - recall)
            recall = now
    return total
