"""Convolution and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from camrt.export import allocation
from camrt.export.adjoint.registry import BackwardStep, rule
from camrt.export.adjoint.rules.reductions import divide_by_norm_power, signed_power
from camrt.export.adjoint.rules.windows import Windows, read_windows, scatter_windows, trim_padding

__all__: list[str] = []

Array = npt.NDArray[Any]


@rule("Conv")
def _conv(step: BackwardStep) -> Sequence[str | None]:
    """y = W ⋆ x. In the padded map x̄[P] = Σ W[i]·ȳ[t] over all P = s·t + d·i.

    With one step a cell that is a convolution of ȳ with the weight turned round, which runs faster than the
    ConvTranspose it is with more.
    """
    weight = step.constant(step.input(1))
    kernel = step.attribute("kernel_shape") or step.shape(step.input(1))[2:]
    windows = read_windows(step, tuple(kernel))
    group = step.attribute("group", 1)
    # A weight may be made when the graph runs, of constants or of the image.
    plain = weight is not None and max(windows.strides) == 1
    made: list[str | None] = [None, None, None]
    if step.needs_gradient(0):
        made[0] = (
            convolve_flipped(step, weight, windows, group)
            if plain and weight is not None
            else convolve_transposed(step, windows, group)
        )
    if step.needs_gradient(1):
        made[1] = weight_gradient(step, windows, group)
    if step.needs_gradient(2):
        axes = [axis for axis in range(len(step.shape(step.y))) if axis != 1]
        made[2] = step.make.reduce_sum(step.g, axes, keepdims=False)
    return made


def weight_gradient(step: BackwardStep, windows: Windows, group: int) -> str:
    """W̄[o, c, i] = Σ ȳ[n, o, t]·x[n, c, s·t + d·i]: x convolved with ȳ, batch and channels exchanged.

    Strides and dilations change places. What is left of rounding the number of windows down is cut off.
    """
    make = step.make
    rank = len(windows.kernel)
    spatial = list(range(3, 3 + rank))

    def grouped(name: str, channels: int, order: list[int]) -> tuple[str, str]:
        sizes = make.slice(make.shape_of(name), [2], [2 + rank], [0])
        apart = make.concat([make.indices([0, group, channels // group]), sizes], 0)
        moved = make.transpose(make.add("Reshape", name, apart), [*order, *spatial])
        return moved, sizes

    outputs, inputs = step.shape(step.y)[1], step.shape(step.x)[1]
    # (C/g, g·N, ...) and (g·O/g, N, ...)
    x, x_sizes = grouped(step.x, inputs, [2, 1, 0])
    x = make.add("Reshape", x, make.concat([make.indices([inputs // group, -1]), x_sizes], 0))
    g, g_sizes = grouped(step.g, outputs, [1, 2, 0])
    g = make.add("Reshape", g, make.concat([make.indices([outputs, -1]), g_sizes], 0))
    back = make.add(
        "Conv", x, g, group=group, strides=list(windows.dilations), dilations=list(windows.strides),
        pads=[*windows.begin, *windows.end],
    )  # fmt: skip
    kept = make.slice(back, [0] * rank, list(windows.kernel), list(range(2, 2 + rank)))
    return make.transpose(kept, [1, 0, *range(2, 2 + rank)])


def transpose_weight(weight: Array, group: int) -> Array:
    """(O, C/g, ...) -> (C, O/g, ...): what went in comes out, group by group."""
    outputs, inputs = weight.shape[:2]
    grouped = weight.reshape(group, outputs // group, inputs, *weight.shape[2:])
    return grouped.swapaxes(1, 2).reshape(group * inputs, outputs // group, *weight.shape[2:])


def convolve_flipped(step: BackwardStep, weight: Array, windows: Windows, group: int) -> str:
    """One step a cell: Conv with the weight turned round, padded by d·(k − 1) − p."""
    make = step.make
    flipped = np.flip(transpose_weight(weight, group), axis=tuple(range(2, weight.ndim)))
    pads = [
        reach - 1 - pad
        for side in (windows.begin, windows.end)
        for reach, pad in zip(windows.reach, side, strict=True)
    ]
    cut = [max(-pad, 0) for pad in pads]
    back = make.add(
        "Conv", step.g, make.constant(flipped.astype(np.float64)),
        dilations=list(windows.dilations), group=group, pads=[max(pad, 0) for pad in pads],
    )  # fmt: skip
    rank = len(windows.kernel)
    return make.crop(back, [0, 0, *cut[:rank]], [0, 0, *cut[rank:]])


def convolve_transposed(step: BackwardStep, windows: Windows, group: int) -> str:
    """Any steps: ConvTranspose over the padded map."""
    back = step.make.add(
        "ConvTranspose", step.g, step.input(1),
        strides=list(windows.strides), dilations=list(windows.dilations), group=group,
    )  # fmt: skip
    return trim_padding(step, back, windows)


@rule("ConvTranspose")
def _conv_transpose(step: BackwardStep) -> Sequence[str | None]:
    """The convolution it is the adjoint of."""
    if step.needs_gradient(1) or step.needs_gradient(2):
        raise step.refuse("its weight depends on the image")
    if step.attribute("auto_pad", "NOTSET") != "NOTSET" or step.attribute("output_shape"):
        raise step.refuse("with auto_pad or output_shape it has no rule")
    rank = len(step.shape(step.x)) - 2
    extra = step.attribute("output_padding", [0] * rank)
    windows = read_windows(step, step.shape(step.input(1))[2:])
    make = step.make
    # output_padding cells of the padding behind stay in y; those past the padding no window reached
    behind = [pad - more for pad, more in zip(windows.end, extra, strict=True)]
    g = make.crop(step.g, [0] * (2 + rank), [0, 0, *(max(-size, 0) for size in behind)])
    back = make.add(
        "Conv", g, step.input(1), strides=list(windows.strides), dilations=list(windows.dilations),
        group=step.attribute("group", 1), pads=[*windows.begin, *(max(size, 0) for size in behind)],
    )  # fmt: skip
    return [back]


@rule("MaxPool")
def _max_pool(step: BackwardStep) -> Sequence[str | None]:
    """ȳ to the largest number of each window; of equal ones to the first in row-major order."""
    make = step.make
    kernel = tuple(step.attribute("kernel_shape"))
    if make.supports_scatter_add and make.element == TensorProto.FLOAT:
        return [scatter_maxima(step)]
    if len(kernel) != 2:
        raise step.refuse("only pooling over two axes has a rule on this runtime")
    windows = read_windows(step, kernel)
    more = [s - 1 if windows.ceiled else 0 for s in windows.strides]
    end = [pad + extra for pad, extra in zip(windows.end, more, strict=True)]
    padded = step.x
    if any((*windows.begin, *end)):
        padded = make.pad(padded, [0, 0, *windows.begin, 0, 0, *end], -np.inf)
    sizes = make.slice(make.shape_of(step.y), [2], [4], [0])
    strides = make.indices(list(windows.strides))
    last = make.add("Mul", make.add("Sub", sizes, make.indices([1])), strides)
    taken, parts = "", {}
    for place in product(*map(range, kernel)):
        first = [i * d for i, d in zip(place, windows.dilations, strict=True)]
        until = make.add("Add", last, make.indices([offset + 1 for offset in first]))
        cells = make.slice(padded, first, until, [2, 3], list(windows.strides))
        won = make.add("Equal", cells, step.y)
        wins = make.add("And", won, make.add("Not", taken)) if taken else won
        taken = make.add("Or", taken, won) if taken else won
        parts[place] = make.masked(step.g, wins)
    return [scatter_windows(step, parts, windows)]


def scatter_maxima(step: BackwardStep) -> str:
    """Σ over the windows whose largest cell this is, by the places that MaxPool itself gives as indices.

    One pass over the map, where unfolding its windows takes as many as a window has cells. Only in float32:
    what the indices count differs between runtimes in other types.
    """
    make = step.make
    node = step.node
    places = make.new_name()
    again = helper.make_node("MaxPool", [step.x], [make.new_name(), places])
    again.attribute.extend(node.attribute)
    make.nodes.append(again)
    flat = make.indices([-1])
    cells = make.shape_of(step.x)
    zeros = make.zeros(make.add("ReduceProd", cells, keepdims=1))
    total = make.add(
        "ScatterElements", zeros, make.add("Reshape", places, flat), make.add("Reshape", step.g, flat),
        axis=0, reduction="add",
    )  # fmt: skip
    return make.reshaped_like(total, step.x)


@rule("AveragePool")
def _average_pool(step: BackwardStep) -> Sequence[str | None]:
    """ȳ/n to each of the n cells that a window counts."""
    make = step.make
    kernel = tuple(step.attribute("kernel_shape"))
    windows = read_windows(step, kernel)
    padded = any((*windows.begin, *windows.end))
    whole = bool(step.attribute("count_include_pad", 0))
    if windows.ceiled and padded and whole:
        raise step.refuse("ceil_mode together with counted padding has no rule")
    if (padded and not whole) or windows.ceiled:
        share = make.add("Div", step.g, count_window_cells(step, windows))
    else:
        share = make.add("Div", step.g, make.number(float(np.prod(kernel))))
    return [spread_over_windows(step, share, windows)]


def spread_over_windows(step: BackwardStep, share: str, windows: Windows) -> str:
    """Σ over windows of a number each (N, K, ...), for every cell they cover."""
    make = step.make
    stride = windows.strides[0]
    square = set(windows.strides) == {stride} and (stride == 1 or max(windows.dilations) == 1)
    if len(windows.kernel) == 2 and square:
        return scatter_windows(step, dict.fromkeys(product(*map(range, windows.kernel)), share), windows)
    rank = len(windows.kernel)

    def by_map(sizes_from: str, lead: list[int]) -> str:
        sizes = make.slice(make.shape_of(sizes_from), [2], [2 + rank], [0])
        return make.concat([make.indices(lead), sizes], 0)

    alone = make.add("Reshape", share, by_map(step.y, [-1, 1]))
    back = make.add(
        "ConvTranspose", alone, make.constant(allocation.ones((1, 1, *windows.kernel), "windows")),
        strides=list(windows.strides), dilations=list(windows.dilations),
    )  # fmt: skip
    return make.reshaped_like(trim_padding(step, back, windows), step.x)


def count_window_cells(step: BackwardStep, windows: Windows) -> str:
    """How many cells of the map each window covers: (1, 1, and the windows along each axis)."""
    make = step.make
    one = make.slice(step.x, [0, 0], [1, 1], [0, 1])
    ones = make.add("Add", make.zeros(make.shape_of(one)), make.number(1.0))
    more = [s - 1 if windows.ceiled else 0 for s in windows.strides]
    counts = make.add(
        "Conv", ones, make.constant(allocation.ones((1, 1, *windows.kernel), "windows")),
        strides=list(windows.strides), dilations=list(windows.dilations),
        pads=[*windows.begin, *(pad + extra for pad, extra in zip(windows.end, more, strict=True))],
    )  # fmt: skip
    rank = len(windows.kernel)
    sizes = make.slice(make.shape_of(step.y), [2], [2 + rank], [0])
    return make.slice(counts, [0] * rank, sizes, list(range(2, 2 + rank)))


@rule("LpPool")
def _norm_pool(step: BackwardStep) -> Sequence[str | None]:
    """y = (Σ|x|^p)^(1/p) over each window: sign(x)·|x|^(p − 1) times Σ ȳ/y^(p − 1) over its windows."""
    windows = read_windows(step, tuple(step.attribute("kernel_shape")))
    p = float(step.attribute("p", 2))
    return [
        step.make.add(
            "Mul",
            signed_power(step, step.x, p),
            spread_over_windows(step, divide_by_norm_power(step, p), windows),
        )
    ]
