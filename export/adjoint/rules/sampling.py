"""Sampling a map at places that are given: GridSample, and the places of an affine transform.

"Spatial Transformer Networks" (Jaderberg et al., 2015). A place p along an axis of cells lies among a few of
them, its *taps*: cell i with weight w(p). The answer is the sum over taps along both axes of w·w'·x, so
that x̄ gets w·w'·ȳ at the taps, and p̄ = Σ ȳ·x·w'·∂w/∂p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from camrt.export.adjoint.registry import BackwardStep, rule
from camrt.export.graph.node_maker import NodeMaker

__all__: list[str] = []

CUBIC = -0.75  # the free coefficient of cubic convolution, as torch and ONNX's operator have it


@dataclass(frozen=True)
class Tap:
    """One of the cells that a place lies among: tensors (N, P) of P places.

    Attributes:
        cell: Its index, within the map.
        weight: What it counts with.
        slope: ∂weight/∂place; None where that is zero everywhere.
    """

    cell: str
    weight: str
    slope: str | None


@rule("GridSample")
def _grid_sample(step: BackwardStep) -> Sequence[str | None]:
    make = step.make
    if len(step.shape(step.x)) != 4:
        raise step.refuse("only maps of two axes have a rule")
    channels = step.shape(step.x)[1]
    sizes = make.shape_of(step.x)
    height, width = (make.slice(sizes, [axis], [axis + 1], [0]) for axis in (2, 3))
    flat_grid = make.reshape(step.input(1), [0, -1, 2])
    across, down = (make.squeeze(make.slice(flat_grid, [at], [at + 1], [2]), [2]) for at in (0, 1))
    columns, per_column = make_taps(step, across, width)
    rows, per_row = make_taps(step, down, height)
    g = make.reshape(step.g, [0, channels, -1])
    x = make.reshape(step.x, [0, channels, -1])
    total = make.zeros(make.shape_of(x))
    of_column: list[str] = []
    of_row: list[str] = []
    for row in rows:
        for column in columns:
            flat = make.add("Add", make.add("Mul", row.cell, width), column.cell)
            places = make.expanded_like(make.unsqueeze(flat, [1]), g)
            if step.needs_gradient(0):
                weight = make.unsqueeze(make.add("Mul", row.weight, column.weight), [1])
                total = make.add(
                    "ScatterElements", total, places, make.add("Mul", g, weight), axis=2, reduction="add"
                )
            if step.needs_gradient(1) and column.slope and row.slope:
                met = make.add("Mul", g, make.add("GatherElements", x, places, axis=2))
                met = make.reduce_sum(met, [1], keepdims=False)
                of_column.append(make.add("Mul", met, make.add("Mul", row.weight, column.slope)))
                of_row.append(make.add("Mul", met, make.add("Mul", row.slope, column.weight)))
    back = make.reshaped_like(total, step.x) if step.needs_gradient(0) else None
    if not step.needs_gradient(1):
        return [back]
    if not of_column:
        return [back, *step.no_gradient()]
    parts = [
        make.unsqueeze(make.add("Mul", make.add("Sum", *of_axis), scale), [2])
        for of_axis, scale in ((of_column, per_column), (of_row, per_row))
    ]
    return [back, make.reshaped_like(make.concat(parts, 2), step.input(1))]


def make_taps(step: BackwardStep, given: str, size: str) -> tuple[list[Tap], str]:
    """The taps of places along an axis, and by how much a place moves with what is given, −1 to 1."""
    make = step.make
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(step.attribute("mode", "linear"))
    mode = mode or str(step.attribute("mode", "linear"))
    padding = step.attribute("padding_mode", "zeros")
    aligned = bool(step.attribute("align_corners", 0))
    count = make.as_float(size)
    last = make.add("Sub", count, make.number(1.0))
    half = make.number(0.5)
    scale = make.add("Mul", last if aligned else count, half)
    place = make.add("Mul", make.add("Add", given, make.number(1.0)), scale)
    if not aligned:
        place = make.add("Sub", place, half)
    if mode != "cubic":
        place, scale = apply_padding(make, place, scale, last, padding, aligned)
    if mode == "nearest":
        cell = make.add("Round", place)
        inside = is_inside(make, cell, last)
        weight = make.masked(
            make.add("Add", make.add("Mul", cell, make.number(0.0)), make.number(1.0)), inside
        )
        return [Tap(clamp_index(make, cell, last), weight, None)], scale
    below = make.add("Floor", place)
    offset = make.add("Sub", place, below)
    found = []
    for number, (weight, slope) in enumerate(
        linear_weights(make, offset) if mode == "linear" else cubic_weights(make, offset)
    ):
        cell = make.add("Add", below, make.number(float(number - (mode == "cubic"))))
        if padding == "zeros":
            inside = is_inside(make, cell, last)
            weight, slope = make.masked(weight, inside), make.masked(slope, inside)
        elif mode == "cubic":
            cell, _ = apply_padding(make, cell, scale, last, padding, aligned)
        found.append(Tap(clamp_index(make, cell, last), weight, slope))
    return found, scale


def clamp_index(make: NodeMaker, cell: str, last: str) -> str:
    """A cell's index, within the map whatever it was."""
    low = make.add("Max", make.add("Min", cell, last), make.number(0.0))
    return make.add("Cast", low, to=7)


def is_inside(make: NodeMaker, cell: str, last: str) -> str:
    """Whether a cell lies within the map."""
    outside = make.add("Or", make.add("Less", cell, make.number(0.0)), make.add("Greater", cell, last))
    return make.add("Not", outside)


def apply_padding(
    make: NodeMaker, place: str, scale: str, last: str, padding: str, aligned: bool
) -> tuple[str, str]:
    """Places brought into the map as the padding says, and by how much they move there."""
    if padding == "zeros":
        return place, scale
    moves = make.expanded_like(scale, place)
    if padding == "reflection":
        low = make.number(0.0 if aligned else -0.5)
        span = last if aligned else make.add("Add", last, make.number(1.0))
        away = make.add("Sub", place, low)
        distance = make.add("Abs", away)
        turns = make.add("Floor", make.add("Div", distance, span))
        rest = make.add("Sub", distance, make.add("Mul", turns, span))
        even = make.add("Equal", make.add("Mod", turns, make.number(2.0), fmod=1), make.number(0.0))
        place = make.add("Add", make.add("Where", even, rest, make.add("Sub", span, rest)), low)
        ahead = make.add("Mul", moves, make.add("Sign", away))
        moves = make.add("Where", even, ahead, make.add("Neg", ahead))
    moves = make.masked(moves, make.add("Greater", place, make.number(0.0)))
    moves = make.masked(moves, make.add("Less", place, last))
    return make.add("Max", make.add("Min", place, last), make.number(0.0)), moves


def linear_weights(make: NodeMaker, offset: str) -> list[tuple[str, str]]:
    """Weights 1 − t and t, and their slopes."""
    one = make.number(1.0)
    ones = make.add("Add", make.add("Mul", offset, make.number(0.0)), one)
    return [(make.add("Sub", one, offset), make.add("Neg", ones)), (offset, ones)]


def cubic_weights(make: NodeMaker, offset: str) -> list[tuple[str, str]]:
    """The weights of the four cells around a place, and their slopes, by distance (Keys, 1981)."""
    near = np.array([CUBIC + 2, -(CUBIC + 3), 0.0, 1.0])
    far = np.array([CUBIC, -5 * CUBIC, 8 * CUBIC, -4 * CUBIC])
    found = []
    for number, (coefficients, sign) in enumerate(((far, 1), (near, 1), (near, -1), (far, -1))):
        shift = make.number((1.0, 0.0, 1.0, 2.0)[number])
        distance = make.add("Add", offset, shift) if sign > 0 else make.add("Sub", shift, offset)
        slopes = np.polyder(coefficients) * sign
        found.append((polynomial(make, distance, coefficients), polynomial(make, distance, slopes)))
    return found


def polynomial(make: NodeMaker, x: str, coefficients: np.ndarray) -> str:
    """By Horner's scheme, the highest power first."""
    value = make.add("Mul", x, make.number(float(coefficients[0])))
    for coefficient in coefficients[1:-1]:
        value = make.add("Mul", make.add("Add", value, make.number(float(coefficient))), x)
    return make.add("Add", value, make.number(float(coefficients[-1])))


@rule("AffineGrid")
def _affine_grid(step: BackwardStep) -> Sequence[str | None]:
    """Places = θ·(x, y, 1): θ̄ = ȳᵀ·(x, y, 1)."""
    make = step.make
    if len(step.shape(step.x)) != 3 or step.shape(step.x)[1] != 2:
        raise step.refuse("only maps of two axes have a rule")
    sizes = make.concat([make.indices([1]), make.slice(step.input(1), [1], [4], [0])], 0)
    unmoved = make.constant(np.eye(2, 3)[None])
    attributes = {"align_corners": step.attribute("align_corners", 0)}
    places = make.reshape(make.add("AffineGrid", unmoved, sizes, **attributes), [-1, 2])
    ones = make.add("Add", make.zeros(make.concat([make.slice(make.shape_of(places), [0], [1], [0]),
                                                    make.indices([1])], 0)), make.number(1.0))  # fmt: skip
    g = make.transpose(make.reshape(step.g, [0, -1, 2]), [0, 2, 1])
    return [make.add("MatMul", g, make.concat([places, ones], 1))]
