"""From raw maps to saliency maps of the image's size, as `camrt.kernels.saliency` makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from camrt.engine.images.framing import Framing
from camrt.engine.maps_in_file.file_graph import FileGraph
from camrt.engine.methods import Method
from camrt.export.rewrites.input_form import IMAGES
from camrt.kernels.resampling import axis_table

__all__ = ["Placement", "make_saliency", "not_finite", "sampling_matrix"]

Array = npt.NDArray[Any]


def not_finite(make: FileGraph, values: str, axes: list[int]) -> str:
    """Whether any number along some axes is NaN or infinite; the axes are kept."""
    odd = make.add("Or", make.add("IsNaN", values), make.add("IsInf", values))
    return make.add(
        "Greater", make.reduce("ReduceMax", make.as_float(odd), axes, keepdims=True), make.number(0.5)
    )


@dataclass(frozen=True)
class Placement:
    """Where maps of some cells lie on the images.

    Attributes:
        cells: (h, w) of the raw maps.
        framing: (H, W) of the images, and the part of them that the raw maps show.
    """

    cells: tuple[int, int]
    framing: Framing

    @property
    def part(self) -> tuple[int, int]:
        """(H, W) that the part is first resized to."""
        if self.framing.is_whole:
            return self.framing.size
        left, upper, right, lower = self.framing.region.box
        height, width = (max(round(abs(side)), 1) for side in (lower - upper, right - left))
        return height, width

    def resizing(self) -> tuple[Array, Array]:
        """Matrices that resize maps to the part, from the left and from the right."""
        rows, columns = (
            sampling_matrix(axis_table(cells, size), cells)
            for cells, size in zip(self.cells, self.part, strict=True)
        )
        return rows, columns.T

    def moving(self) -> tuple[Array, Array]:
        """Matrices that lay maps of the part where it is in the image: see `uncrop_maps`."""
        region, found = self.framing.region, []
        sides = ((region.upper, region.lower), (region.left, region.right))
        for cells, size, (begin, end) in zip(self.part, self.framing.size, sides, strict=True):
            middles = np.arange(size) + 0.5
            inside = (middles > min(begin, end)) & (middles < max(begin, end))
            table = axis_table(cells, size, False, begin, end)
            found.append(sampling_matrix(table, cells) * inside[:, None].astype(np.float32))
        return found[0], found[1].T


def sampling_matrix(table: tuple[Array, Array, Array], inputs: int) -> Array:
    """What `camrt.kernels.resampling.axis_table` says as a matrix (outputs, inputs)."""
    lower, upper, t = table
    matrix = np.zeros((len(t), inputs))
    np.add.at(matrix, (np.arange(len(t)), lower), 1.0 - t)
    np.add.at(matrix, (np.arange(len(t)), upper), t)
    return matrix.astype(np.float32)


def make_saliency(make: FileGraph, raw: str, method: Method, placement: Placement | None, broken: str) -> str:
    """Saliency maps (N, T, H, W) in [0, 1] of raw maps (N, T, h, w).

    Args:
        make: Makes the nodes.
        raw: The raw maps.
        method: What made them; it says how they are normalised.
        placement: Where they lie on the images; None on all of images of any size.
        broken: (N, T, 1, 1): which maps are to be zeros whatever they hold.
    """
    shown = make.add("Abs", raw) if method.absolute else raw
    by_max = method.postprocess == "native" and method.normalisation == "max"
    low = make.reduce("ReduceMin", shown, [2, 3], keepdims=True)
    high = make.reduce("ReduceMax", shown, [2, 3], keepdims=True)
    span = make.add("Sub", high, low)
    zero, one = make.number(0.0), make.number(1.0)
    fine = make.add("And", make.add("Not", broken), make.add("Not", make.add("IsInf", span)))
    fine = make.add("And", fine, make.add("Greater", span, zero))
    if method.applies_relu or by_max:
        fine = make.add("And", fine, make.add("Greater", high, zero))
    values = make.add("Where", fine, shown, zero)  # nothing odd goes on from here
    if method.applies_relu:
        values = make.add("Relu", values)
    if method.postprocess == "library":
        values = rescaled(make, values)
    elif by_max:
        largest = make.reduce("ReduceMax", values, [2, 3], keepdims=True)
        values = make.add("Div", values, make.add("Where", fine, largest, one))
    else:
        least = make.reduce("ReduceMin", values, [2, 3], keepdims=True)
        most = make.reduce("ReduceMax", values, [2, 3], keepdims=True)
        spread = make.add("Where", fine, make.add("Sub", most, least), one)
        values = make.add("Div", make.add("Sub", values, least), spread)
    if placement is None:
        size = make.sizes(make.tensor(IMAGES), 2, 4)
        size = make.concat([make.sizes(values, 0, 2), size], 0)
        how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        values = make.add("Resize", values, "", "", size, **how)
    elif placement.part != placement.cells:
        values = between(make, values, *placement.resizing())
    if method.postprocess == "library":
        values = rescaled(make, values)
    else:
        values = make.add("Clip", values, zero, one)
    if placement is not None and not placement.framing.is_whole:
        values = between(make, values, *placement.moving())
    return make.add("Where", fine, values, zero)


def between(make: FileGraph, maps: str, left: Array, right: Array) -> str:
    """Maps (N, T, h, w) multiplied by a matrix from either side."""
    return make.add("MatMul", make.constant(left), make.add("MatMul", maps, make.constant(right)))


def rescaled(make: FileGraph, values: str) -> str:
    """Maps with their minimum taken off, divided by the maximum that is then left, and 1e-7."""
    values = make.add("Sub", values, make.reduce("ReduceMin", values, [2, 3], keepdims=True))
    most = make.reduce("ReduceMax", values, [2, 3], keepdims=True)
    return make.add("Div", values, make.add("Add", most, make.number(1e-7)))
