"""Polygons and run lengths, slowly: exact fractions, one pixel at a time."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

__all__ = ["compress_run_lengths", "near_edge", "polygon", "run_lengths"]


def polygon(ring: list[float], height: int, width: int) -> np.ndarray:
    """Whether a ray straight up from each pixel's centre crosses the polygon an odd number of times."""
    corners = [(Fraction(x), Fraction(y)) for x, y in zip(ring[::2], ring[1::2], strict=True)]
    inside = np.zeros((height, width), bool)
    for r in range(height):
        for c in range(width):
            x, y = Fraction(2 * c + 1, 2), Fraction(2 * r + 1, 2)
            crossed = 0
            for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
                if (ax > x) != (bx > x) and ay + (x - ax) * (by - ay) / (bx - ax) < y:
                    crossed += 1
            inside[r, c] = crossed % 2
    return inside


def near_edge(ring: list[float], height: int, width: int, reach: float) -> np.ndarray:
    """The pixels whose centre is no further than that from an edge."""
    corners = np.array(ring).reshape(-1, 2)
    near = np.zeros((height, width), bool)
    for r in range(height):
        for c in range(width):
            point = np.array([c + 0.5, r + 0.5])
            for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
                along = b - a
                length = float(along @ along)
                share = min(1.0, max(0.0, float((point - a) @ along) / length)) if length else 0.0
                near[r, c] |= np.linalg.norm(a + share * along - point) <= reach
    return near


def run_lengths(mask: np.ndarray) -> list[int]:
    """Lengths of runs, column by column, the first one outside."""
    counts, value = [0], False
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def compress_run_lengths(counts: list[int]) -> str:
    """COCO's text for run lengths: differences from the fourth on, five bits a character, lowest first."""
    text = ""
    for position, count in enumerate(counts):
        value = count - counts[position - 2] if position > 2 else count
        while True:
            low = value % 32
            value = (value - low) // 32
            done = (value == 0 and low < 16) or (value == -1 and low >= 16)
            text += chr(48 + low + (0 if done else 32))
            if done:
                break
    return text
