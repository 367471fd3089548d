"""Interpolation: along each axis a product with a matrix, so x̄ = Rᵀ·ȳ along each.

The matrix is a constant where the image's size is fixed. Where it is open, or the node crops or smooths,
it is what the node itself makes of unit vectors, one axis at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from camrt.export.adjoint.registry import BackwardStep, rule
from camrt.export.allocation import arange, eye, zeros
from camrt.export.budget import reserve_array

__all__: list[str] = []

Array = npt.NDArray[Any]
# What decides which cell is nearest is computed in float32, as runtimes do.
Single = np.float32
CROPPING = "tf_crop_and_resize"


@rule("Resize")
def _resize(step: BackwardStep) -> Sequence[str | None]:
    before, after = step.shape(step.x), step.shape(step.y)
    if step.needs_gradient(1) or step.needs_gradient(2) or step.needs_gradient(3):
        raise step.refuse("how much it resizes depends on the image")
    if step.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise step.refuse("keeping the aspect ratio has no rule")
    if before[0] != after[0]:
        raise step.refuse("it resizes the batch axis")
    make, g = step.make, step.g
    rank = len(before)
    scales = scales_of(step, before, after) if is_constant_matrix(step) else None
    for axis in range(1, rank):
        if axis == 1 and before[1] == after[1]:
            continue  # channels; where they are last, the first axis of a map
        if scales is None:
            matrix = resize_identity(step, axis)
        else:
            values = interpolation_matrix(step, before[axis], after[axis], scales[axis])
            if np.array_equal(values, eye(before[axis], "matrix of a Resize")):
                continue
            matrix = make.constant(values)
        g = make.product_along(g, matrix, axis, rank)
    return [make.add("Identity", g)]


def is_constant_matrix(step: BackwardStep) -> bool:
    """Whether the matrix is a constant that is found here."""
    way = step.attribute("coordinate_transformation_mode", "half_pixel")
    computed = step.input(2) and step.constant(step.input(2)) is None
    return step.fixed_size and way != CROPPING and not step.attribute("antialias", 0) and not computed


def resize_identity(step: BackwardStep, axis: int) -> str:
    """R (after, before) along an axis, made when the graph runs: unit vectors, resized as the node does."""
    make = step.make
    one = make.indices([1])
    size, made = (make.slice(make.shape_of(name), [axis], [axis + 1], [0]) for name in (step.x, step.y))
    column = make.add("Reshape", make.units(size), make.concat([one, one, size, size], 0))
    listed = [which % len(step.shape(step.x)) for which in step.attribute("axes", [])]
    place = listed.index(axis) if listed else axis
    roi, scales, whole = "", "", ""
    if step.attribute("coordinate_transformation_mode") == CROPPING:
        count = len(listed) or len(step.shape(step.x))
        begin, end = (make.slice(step.input(1), [at], [at + 1], [0]) for at in (place, count + place))
        none, all_of = (make.add("CastLike", make.constant([float(edge)]), step.input(1)) for edge in (0, 1))
        roi = make.concat([none, none, begin, none, all_of, all_of, end, all_of], 0)
    stated = step.input(2)
    if stated and step.shape(stated) != (0,):
        unscaled = make.add("CastLike", make.constant([1.0]), stated)
        scale = make.slice(stated, [place], [place + 1], [0])
        scales = make.concat([unscaled, unscaled, scale, unscaled], 0)
    else:
        whole = make.concat([one, one, made, size], 0)
    left = {"axes", "keep_aspect_ratio_policy", "extrapolation_value"}
    attributes = {
        item.name: step.attribute(item.name) for item in step.node.attribute if item.name not in left
    }
    inputs = [column, roi, scales, whole] if whole else [column, roi, scales]
    resized = make.add("Resize", *inputs, **attributes)
    return make.add("Reshape", resized, make.concat([made, size], 0))


def scales_of(step: BackwardStep, before: Sequence[int], after: Sequence[int]) -> Array:
    """By how much each axis grows: as the node says, or by its sizes."""
    given = step.constant(step.input(2)) if step.input(2) else None
    if given is None or not given.size:
        return np.asarray(after, Single) / np.asarray(before, Single)
    scales = np.ones(len(before), Single)
    scales[list(step.attribute("axes", range(len(before))))] = np.asarray(given, Single)
    return scales


def interpolation_matrix(step: BackwardStep, before: int, after: int, scale: np.float32) -> Array:
    """R (after, before) along an axis: row i holds the weights of the cells that make up cell i of y."""
    mode = step.attribute("mode", "nearest")
    way = step.attribute("coordinate_transformation_mode", "half_pixel")
    place = coordinates(step, way, before, after, scale)
    if mode == "nearest":
        rounding = step.attribute("nearest_mode", "round_prefer_floor")
        reserve_array((len(place), before), "matrix of a Resize", itemsize=8)
        return eye(before, "matrix of a Resize")[
            np.clip(ROUNDINGS[rounding](place).astype(np.int64), 0, before - 1)
        ]
    place = place.astype(np.float64)
    if mode == "linear":
        place = np.clip(place, 0, before - 1)
        return weight_matrix(place, before, 1, lambda d: np.maximum(1 - d, 0), outside=True)
    a = step.attribute("cubic_coeff_a", -0.75)
    outside = not step.attribute("exclude_outside", 0)
    return weight_matrix(place, before, 2, lambda d: cubic_weight(d, a), outside=outside)


ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda place: np.ceil(place - Single(0.5)),
    "round_prefer_ceil": lambda place: np.floor(place + Single(0.5)),
}


def coordinates(step: BackwardStep, way: str, before: int, after: int, scale: np.float32) -> Array:
    """Where each cell of y lies among the cells of x (`coordinate_transformation_mode`)."""
    cell = arange(after, "cells of a Resize", Single)
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


def cubic_weight(distance: Array, a: float) -> Array:
    """Weight of a cell at a distance up to 2 ("Cubic Convolution Interpolation", Keys, 1981, with free a)."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def weight_matrix(
    place: Array, before: int, reach: int, weight: Callable[[Array], Array], *, outside: bool
) -> Array:
    """R whose rows weigh the `reach` cells on both sides of a place by their distance.

    With `outside` the cells beyond the edge are copies of those at it, else the others share their weight.
    """
    matrix = zeros((len(place), before), "matrix of a Resize")
    rows = np.arange(len(place))
    for offset in range(1 - reach, 1 + reach):
        cell = np.floor(place).astype(np.int64) + offset
        part = weight(np.abs(place - cell))
        if not outside:
            part = np.where((cell >= 0) & (cell < before), part, 0.0)
        np.add.at(matrix, (rows, np.clip(cell, 0, before - 1)), part)
    return matrix if outside else matrix / matrix.sum(axis=1, keepdims=True)
