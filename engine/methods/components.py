"""The first principal component of maps of channels, with cells as rows."""

from __future__ import annotations

from typing import Any

from camrt.engine.arrays import clip_min, library, reserve_for

__all__ = [
    "cells_as_rows",
    "centre_both",
    "component_along_sum",
    "finish",
    "first_component",
    "orient_by_largest",
]

Array = Any
MAGNITUDE_TOLERANCE = 1e-9  # entries this close, relatively, differ by rounding only


def first_component(maps: Array, *, centred: bool = True) -> Array:
    """s₁·u₁ of each of some maps with their cells as rows, oriented: (N, K, h, w) -> (N, h, w).

    NaN where anything of a map is not finite.

    Args:
        maps: Any maps of K channels.
        centred: Whether each channel's mean over the cells is taken off first; see `EigenCAM`.
    """
    xp = library(maps)
    count, channels, height, width = maps.shape
    side = min(channels, height * width)
    reserve_for((count, 4 * channels * height * width + 3 * side * side), maps, "activations")
    cells, broken = cells_as_rows(maps, centred=centred)
    turned = xp.permute_dims(cells, (0, 2, 1))
    # The smaller Gram matrix holds the same leading direction.
    if height * width <= channels:
        values, vectors = xp.linalg.eigh(xp.matmul(cells, turned))
        projected = vectors[:, :, -1] * xp.sqrt(clip_min(values[:, -1:], 0.0))
    else:
        vectors = xp.linalg.eigh(xp.matmul(turned, cells))[1]
        projected = xp.matmul(cells, vectors[:, :, -1:])[:, :, 0]
    oriented = orient_by_largest(projected) if centred else orient_by_sum(projected)
    return finish(oriented, broken, (height, width))


def component_along_sum(maps: Array) -> Array:
    """The first component (N, h, w) of maps (N, K, h, w), centred; its sign goes along with their sum."""
    xp = library(maps)
    found = first_component(maps)
    plain = xp.sum(maps, axis=1, dtype=xp.float64)
    along = xp.sum(found * (plain - xp.mean(plain, axis=(1, 2), keepdims=True)), axis=(1, 2), keepdims=True)
    return xp.where(along < 0, -found, found)


def cells_as_rows(maps: Array, *, centred: bool) -> tuple[Array, Array]:
    """Maps (N, K, h, w) as float64 matrices (N, h·w, K); (N, 1) whether one is not finite, and zeros."""
    xp = library(maps)
    flat = xp.reshape(xp.astype(maps, xp.float64), (*maps.shape[:2], -1))
    cells = xp.permute_dims(flat, (0, 2, 1))
    broken = ~xp.all(xp.isfinite(cells), axis=(1, 2))[:, None]
    cells = xp.where(broken[:, :, None], xp.zeros_like(cells), cells)
    if centred:
        cells = cells - cells[:, :1]  # first, so that a constant channel becomes exactly zero
        cells = cells - xp.mean(cells, axis=1, keepdims=True)
    return cells, broken


def centre_both(matrix: Array) -> Array:
    """Symmetric matrices (N, L, L) less the means of their rows and of their columns, plus that of all."""
    xp = library(matrix)
    shifted = matrix - matrix[:, :1, :1]  # so that a constant matrix becomes exactly zero
    rows = xp.mean(shifted, axis=2, keepdims=True)
    return shifted - rows - xp.permute_dims(rows, (0, 2, 1)) + xp.mean(rows, axis=1, keepdims=True)


def orient_by_largest(projected: Array) -> Array:
    """Vectors (N, L) turned so that the entry of largest magnitude, the first of equal ones, is positive."""
    xp = library(projected)
    magnitudes = xp.abs(projected)
    equal = magnitudes >= xp.max(magnitudes, axis=1, keepdims=True) * (1 - MAGNITUDE_TOLERANCE)
    largest = xp.argmax(xp.astype(equal, xp.int8), axis=1, keepdims=True)
    return xp.where(xp.take_along_axis(projected, largest, axis=1) >= 0, projected, -projected)


def orient_by_sum(projected: Array) -> Array:
    """Vectors (N, L) turned so that their sum is not negative."""
    xp = library(projected)
    return xp.where(xp.sum(projected, axis=1, keepdims=True) >= 0, projected, -projected)


def finish(oriented: Array, broken: Array, cells: tuple[int, int]) -> Array:
    """Vectors (N, h·w) as float32 maps (N, h, w), NaN where they are marked."""
    xp = library(oriented)
    marked = xp.where(broken, xp.full_like(oriented, float("nan")), oriented)
    return xp.reshape(xp.astype(marked, xp.float32), (len(oriented), *cells))
