"""Interpolation: along each axis a product with a constant matrix, so x̄ = Rᵀ·ȳ along each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from camrt.export.adjoint.steps import Step, rule

__all__: list[str] = []

Array = npt.NDArray[Any]
# What decides which cell is nearest is computed in float32, as runtimes do.
Single = np.float32


@rule("Resize", "Upsample")
def _resize(step: Step) -> Sequence[str | None]:
    before, after = step.shape(step.x), step.shape(step.y)
    if not step.fixed_size:
        raise step.refuse("how it interpolates depends on the pictures' size; export it with a fixed size")
    if step.attribute("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise step.refuse("cropping while resizing has no rule")
    if step.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise step.refuse("keeping the aspect ratio has no rule")
    if step.attribute("antialias", 0):
        raise step.refuse("antialiasing has no rule")
    if before[:2] != after[:2]:
        raise step.refuse("only height and width may change")
    make, g = step.make, step.g
    rank = len(before)
    scales = scales_of(step, before, after)
    for axis in range(2, rank):
        matrix = interpolation(step, before[axis], after[axis], scales[axis])
        if np.array_equal(matrix, np.eye(before[axis])):
            continue
        order = [*(other for other in range(rank) if other != axis), axis]
        moved = make.add("MatMul", make.transpose(g, order), make.constant(matrix))
        g = make.transpose(moved, [int(place) for place in np.argsort(order)])
    return [make.add("Identity", g)]


def scales_of(step: Step, before: Sequence[int], after: Sequence[int]) -> Array:
    """By how much each axis grows: as the node says, or by its sizes."""
    given = step.attribute("scales")
    index = 1 if step.node.op_type == "Upsample" or step.make.opset == 10 else 2
    if given is None and step.input(index):
        value = step.constant(step.input(index))
        if value is None:
            raise step.refuse("its scales are computed from the picture")
        given = value if value.size else None
    if given is None:
        return np.asarray(after, Single) / np.asarray(before, Single)
    scales = np.ones(len(before), Single)
    scales[list(step.attribute("axes", range(len(before))))] = np.asarray(given, Single)
    return scales


def interpolation(step: Step, before: int, after: int, scale: np.float32) -> Array:
    """R (after, before) along an axis: row i holds the weights of the cells that make up cell i of y."""
    mode = step.attribute("mode", "nearest")
    old = step.node.op_type == "Upsample" or step.make.opset == 10
    way = "asymmetric" if old else step.attribute("coordinate_transformation_mode", "half_pixel")
    place = coordinates(step, way, before, after, scale)
    if mode == "nearest":
        rounding = step.attribute("nearest_mode", "round_prefer_floor")
        if old:
            rounding = "ceil" if scale < 1 else "floor"
        return np.eye(before)[np.clip(ROUNDINGS[rounding](place).astype(np.int64), 0, before - 1)]
    place = place.astype(np.float64)
    if mode == "linear":
        place = np.clip(place, 0, before - 1)
        return weighted(place, before, 1, lambda d: np.maximum(1 - d, 0), outside=True)
    a = step.attribute("cubic_coeff_a", -0.75)
    outside = not step.attribute("exclude_outside", 0)
    return weighted(place, before, 2, lambda d: cubic(d, a), outside=outside)


ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda place: np.ceil(place - Single(0.5)),
    "round_prefer_ceil": lambda place: np.floor(place + Single(0.5)),
}


def coordinates(step: Step, way: str, before: int, after: int, scale: np.float32) -> Array:
    """Where each cell of y lies among the cells of x (`coordinate_transformation_mode`)."""
    cell = np.arange(after, dtype=Single)
    half = Single(0.5)
    if way == "asymmetric":
        return cell / scale
    if way == "align_corners":
        return cell * Single(before - 1) / Single(max(after - 1, 1))
    if way == "half_pixel" or (way == "pytorch_half_pixel" and after > 1):
        return (cell + half) / scale - half
    if way == "pytorch_half_pixel":
        return np.zeros(1, Single)
    if way == "half_pixel_symmetric":
        centre = Single(before) / 2 * (1 - Single(after) / (scale * Single(before)))
        return centre + (cell + half) / scale - half
    raise step.refuse(f"coordinate_transformation_mode {way!r} has no rule")


def cubic(distance: Array, a: float) -> Array:
    """Weight of a cell at a distance up to 2 ("Cubic Convolution Interpolation", Keys, 1981, with free a)."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def weighted(
    place: Array, before: int, reach: int, weight: Callable[[Array], Array], *, outside: bool
) -> Array:
    """R whose rows weigh the `reach` cells on both sides of a place by their distance.

    With `outside` the cells beyond the edge are copies of those at it, else the others share their weight.
    """
    matrix = np.zeros((len(place), before))
    rows = np.arange(len(place))
    for offset in range(1 - reach, 1 + reach):
        cell = np.floor(place).astype(np.int64) + offset
        part = weight(np.abs(place - cell))
        if not outside:
            part = np.where((cell >= 0) & (cell < before), part, 0.0)
        np.add.at(matrix, (rows, np.clip(cell, 0, before - 1)), part)
    return matrix if outside else matrix / matrix.sum(axis=1, keepdims=True)
