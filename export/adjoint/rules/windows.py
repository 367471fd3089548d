"""Sliding windows: where they lie, and how numbers per window go back to the cells they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from camrt.export.adjoint.registry import BackwardStep
from camrt.export.budget import reserve_array

__all__ = ["Windows", "read_windows", "scatter_windows"]

BYTES_A_PLACE = 512  # of nodes, about: pooling's rules write some for each place in a window


@dataclass(frozen=True)
class Windows:
    """The windows of a convolution or pooling, by spatial axis.

    Attributes:
        kernel: Their size k.
        strides: Distance s between neighbours.
        dilations: Distance d of the cells within one.
        begin: Cells of padding in front.
        end: Cells of padding behind, without what rounding the number of windows up adds.
        ceiled: Whether the number of windows is rounded up.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    ceiled: bool = False

    @property
    def reach(self) -> tuple[int, ...]:
        """Cells from a window's first to its last: d·(k − 1) + 1."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))


def read_windows(step: BackwardStep, kernel: tuple[int, ...]) -> Windows:
    """The windows that a node's attributes describe."""
    rank = len(kernel)
    reserve_array(kernel, "places in a window", itemsize=BYTES_A_PLACE)
    strides = tuple(step.attribute("strides", [1] * rank))
    dilations = tuple(step.attribute("dilations", [1] * rank))
    pads = step.attribute("pads", [0] * 2 * rank)
    begin, end = tuple(pads[:rank]), tuple(pads[rank:])
    plain = Windows(kernel, strides, dilations, begin, end, bool(step.attribute("ceil_mode", 0)))
    mode = step.attribute("auto_pad", "NOTSET")
    if mode == "VALID":
        return Windows(kernel, strides, dilations, (0,) * rank, (0,) * rank, plain.ceiled)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        return plain
    if not step.fixed_size and max(strides) > 1:
        raise step.refuse(
            f"its padding ({mode}) depends on the size of the images, which the file leaves open; "
            "export it with a fixed size"
        )
    sizes = step.shape(step.x)[2:]
    total = [
        max((-(-size // s) - 1) * s + reach - size, 0)
        for size, s, reach in zip(sizes, strides, plain.reach, strict=True)
    ]
    small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    if mode == "SAME_UPPER":
        return Windows(kernel, strides, dilations, small, large)
    return Windows(kernel, strides, dilations, large, small)


def trim_padding(step: BackwardStep, padded: str, windows: Windows) -> str:
    """The input's own cells of a tensor that covers the padding too, and perhaps not the last few cells."""
    make = step.make
    rank = len(windows.kernel)
    axes = list(range(2, 2 + rank))
    whole = make.pad(padded, [0] * (2 + rank) + [0, 0, *(s - 1 for s in windows.strides)])
    sizes = make.slice(make.shape_of(step.x), [2], [2 + rank], [0])
    begin = make.indices(list(windows.begin))
    return make.slice(whole, begin, make.add("Add", sizes, begin), axes)


def scatter_windows(step: BackwardStep, parts: Mapping[tuple[int, ...], str], windows: Windows) -> str:
    """Σ over windows and the places in them: numbers (N, K, oh, ow) for each place, put where they belong.

    Place (i, j) of window (r, c) is cell (s·r + d·i, s·c + d·j) of the padded map. With i = s·a + u the
    places of one (a, b) fill a grid of s×s blocks (DepthToSpace), which is moved by s·(a, b) and added to
    the others.

    Args:
        step: The node.
        parts: What each place within the window sends back.
        windows: The windows, two axes.
    """
    make = step.make
    stride, other = windows.strides
    if stride != other or (stride > 1 and max(windows.dilations) > 1):
        raise step.refuse("windows with two different strides, or with strides and dilations, have no rule")
    grids = [-(-k // stride) for k in windows.kernel]
    zeros = ""
    moved = []
    for block in product(*map(range, grids)):
        names = []
        for inner in product(range(stride), repeat=2):
            place = tuple(stride * a + u for a, u in zip(block, inner, strict=True))
            if place not in parts:
                zeros = zeros or make.zeros(make.shape_of(step.y))
            names.append(parts.get(place, zeros))
        grid = make.concat(names, 1)
        if stride > 1:
            grid = make.add("DepthToSpace", grid, blocksize=stride)
        shift = [stride * a * d for a, d in zip(block, windows.dilations, strict=True)]
        room = [
            stride * (g - 1) * d - moved_by
            for g, d, moved_by in zip(grids, windows.dilations, shift, strict=True)
        ]
        moved.append(make.pad(grid, [0, 0, *shift, 0, 0, *room]) if any(shift + room) else grid)
    return trim_padding(step, moved[0] if len(moved) == 1 else make.add("Sum", *moved), windows)
