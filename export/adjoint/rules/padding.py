"""Pad: what was put around a tensor goes back to the numbers it was copied from, axis by axis.

Along an axis of n numbers with p copies in front and q behind, the cotangent is cut into those three. The
copies are added to what they are copies of:

    edge      the p in front to number 0, the q behind to number n − 1
    reflect   those in front, turned round, to 1 ... p; those behind, turned round, to n − 1 − q ... n − 2
    wrap      those in front to n − p ... n − 1; those behind to 0 ... q − 1
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from camrt.export.adjoint.registry import BackwardStep, rule
from camrt.export.graph.node_maker import TO_THE_END, NodeMaker

__all__: list[str] = []


@rule("Pad")
def _pad(step: BackwardStep) -> Sequence[str | None]:
    """What was put around is cut off again, and what was cut off is zero."""
    make = step.make
    rank = len(step.shape(step.x))
    mode = step.attribute("mode", "constant")
    pads = step.whole_numbers(1, "pads")
    if isinstance(pads, str):
        if step.input(3):
            raise step.refuse("its pads are computed from the image's size and not given for every axis")
        return [
            make.pad(step.g, make.add("Neg", pads))
            if mode == "constant"
            else unpad_at_run_time(step, pads, mode)
        ]
    axes = [axis % rank for axis in step.numbers(3, "axes")] or list(range(rank))
    whole = np.zeros((2, rank), np.int64)
    whole[:, axes] = np.reshape(pads, (2, -1))
    around, cut = np.maximum(whole, 0), np.maximum(-whole, 0)
    g = step.g
    if mode == "constant":
        g = make.crop(g, *around.tolist())
    else:
        for axis in range(rank):
            before, behind = (int(count) for count in around[:, axis])
            if before or behind:
                g = MODES_BACK[mode](make, g, axis, before, behind)
    return [make.pad(g, cut.reshape(-1).tolist()) if cut.any() else g]


def unpad_at_run_time(step: BackwardStep, pads: str, mode: str) -> str:
    """Pads known only when the graph runs: products with what the node makes of unit vectors."""
    make, g = step.make, step.g
    rank = len(step.shape(step.x))
    none = make.indices([0])
    for axis in range(1, rank):
        size = make.slice(make.shape_of(step.x), [axis], [axis + 1], [0])
        before, behind = (make.slice(pads, [at], [at + 1], [0]) for at in (axis, rank + axis))
        matrix = make.add("Pad", make.units(size), make.concat([before, none, behind, none], 0), mode=mode)
        g = make.product_along(g, matrix, axis, rank)
    return g


def split_padding(make: NodeMaker, g: str, axis: int, before: int, behind: int) -> tuple[str, str, str]:
    """The copies in front, the numbers themselves, and the copies behind."""
    front = make.slice(g, [0], [before], [axis])
    back = make.slice(g, [-behind], [TO_THE_END], [axis])
    own = make.slice(g, [before], [-behind or TO_THE_END], [axis])
    return front, own, back


def add_part(make: NodeMaker, g: str, part: str, begin: int, end: int, axis: int) -> str:
    """`g` with `part` added to its numbers from `begin` to `end` along an axis (counted from either end)."""
    pieces = [make.add("Add", make.slice(g, [begin], [end or TO_THE_END], [axis]), part)]
    if begin:
        pieces.insert(0, make.slice(g, [0], [begin], [axis]))
    if end:
        pieces.append(make.slice(g, [end], [TO_THE_END], [axis]))
    return make.concat(pieces, axis)


def edge_back(make: NodeMaker, g: str, axis: int, before: int, behind: int) -> str:
    front, own, back = split_padding(make, g, axis, before, behind)
    if before:
        own = add_part(make, own, make.reduce_sum(front, [axis], keepdims=True), 0, 1, axis)
    if behind:
        own = add_part(make, own, make.reduce_sum(back, [axis], keepdims=True), -1, 0, axis)
    return own


def reflect_back(make: NodeMaker, g: str, axis: int, before: int, behind: int) -> str:
    front, own, back = split_padding(make, g, axis, before, behind)

    def turned(part: str) -> str:
        return make.slice(part, [-1], [-TO_THE_END], [axis], [-1])

    if before:
        own = add_part(make, own, turned(front), 1, before + 1, axis)
    if behind:
        own = add_part(make, own, turned(back), -1 - behind, -1, axis)
    return own


def wrap_back(make: NodeMaker, g: str, axis: int, before: int, behind: int) -> str:
    front, own, back = split_padding(make, g, axis, before, behind)
    if before:
        own = add_part(make, own, front, -before, 0, axis)
    if behind:
        own = add_part(make, own, back, 0, behind, axis)
    return own


MODES_BACK = {"edge": edge_back, "reflect": reflect_back, "wrap": wrap_back}
