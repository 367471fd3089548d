"""Infidelity: does a map say by how much the score falls when part of the image is taken away?

Yeh et al., "On the (In)fidelity and Sensitivity of Explanations" (NeurIPS 2019, arXiv:1901.09392),
definition 2.1, with f the score and I a random part of the image x:

    INFD = E_I (Iᵀ Φ − (f(x) − f(x − I)))²

As in its experiments with global explanations I is a square, all of whose pixels become zero in the model's
input space, Iᵀ Φ is the map's sum over the square, and the map is first brought to the scale that fits best,
β = E (Iᵀ Φ · Δf) / E (Iᵀ Φ)²: a map in [0, 1] says nothing of the score's units. Squares are drawn evenly
from all that lie in the image and whose side is from one pixel to 10/28 of the image's, as the paper's code
takes them all on images of 28 pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camrt.errors import InputError
from camrt.kernels.float_errors import ignore_float_errors

__all__ = ["draw_squares", "infidelity", "square_sums"]

LARGEST_SIDE = 10 / 28
"""Of the squares, relative to the image's shorter side."""


def draw_squares(size: tuple[int, int], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Squares (count, 4) in an image (H, W), half-open (r0, c0, r1, c1).

    Args:
        size: (H, W).
        count: How many.
        rng: What they are drawn with.
    """
    height, width = size
    sides = np.arange(1, max(1, int(LARGEST_SIDE * min(size))) + 1)
    positions = (height - sides + 1) * (width - sides + 1)  # of a square of each side
    last = np.cumsum(positions)
    drawn = rng.integers(last[-1], size=count)
    kind = np.searchsorted(last, drawn, side="right")
    place, side = drawn - (last - positions)[kind], sides[kind]
    columns = width - side + 1
    top, left = place // columns, place % columns
    return np.stack([top, left, top + side, left + side], axis=1).astype(np.int64)


@ignore_float_errors
def square_sums(maps: ArrayLike, squares: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums (N, n) of maps (N, H, W) over squares (n, 4)."""
    values = np.pad(np.asarray(maps, np.float64), ((0, 0), (1, 0), (1, 0))).cumsum(axis=1).cumsum(axis=2)
    top, left, bottom, right = squares.T
    return np.asarray(
        values[:, bottom, right] - values[:, top, right] - values[:, bottom, left] + values[:, top, left]
    )


@ignore_float_errors
def infidelity(attributed: ArrayLike, changes: ArrayLike, *, scaled: bool = True) -> NDArray[np.float64]:
    """The mean square of what each explanation is wrong by. Lower is better.

    Args:
        attributed: Iᵀ Φ (N, n), what explanations say of n perturbations each.
        changes: f(x) − f(x − I), (N, n), what the perturbations did.
        scaled: Whether each explanation is first multiplied by the β that fits best; False is the definition
            as it stands, for explanations in units of the score.

    Returns:
        (N,); of an explanation that says 0 of every perturbation the mean square of the changes, the largest
        that there is with `scaled`. NaN where a number is not finite: leave it out of the mean, and say so.

    Raises:
        InputError: Shapes that differ, or no perturbation.
    """
    said, happened = np.asarray(attributed, np.float64), np.asarray(changes, np.float64)
    if said.ndim != 2 or said.shape != happened.shape or not said.shape[1]:
        raise InputError(f"two arrays (N, n), n perturbations each, not {said.shape} and {happened.shape}")
    if scaled:
        largest = np.abs(said).max(axis=1, keepdims=True)
        said = said / np.where(largest > 0, largest, 1)  # so that no square vanishes or overflows
        squares = (said**2).sum(axis=1)
        said = said * ((said * happened).sum(axis=1) / np.where(squares > 0, squares, 1))[:, None]
    return np.asarray(((said - happened) ** 2).mean(axis=1))
