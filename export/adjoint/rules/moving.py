"""Operators that move numbers about without changing one: the cotangents are moved back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from camrt.export.adjoint.nodes import EVERYTHING
from camrt.export.adjoint.steps import Step, rule

__all__: list[str] = []


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshaped(step: Step) -> Sequence[str | None]:
    return [step.make.reshaped_like(step.g, step.x)]


@rule("Transpose")
def _transpose(step: Step) -> Sequence[str | None]:
    """The inverse permutation."""
    order = step.attribute("perm") or list(reversed(range(len(step.shape(step.x)))))
    return [step.make.transpose(step.g, [int(axis) for axis in np.argsort(order)])]


@rule("Concat")
def _concat(step: Step) -> Sequence[str | None]:
    """Each input gets its part."""
    axis = step.attribute("axis") % len(step.shape(step.y))
    sizes = [step.shape(name)[axis] for name in step.node.input]
    ends = list(accumulate(sizes))
    return [
        step.make.slice(step.g, [end - size], [end], [axis]) if step.wanted(i) else None
        for i, (size, end) in enumerate(zip(sizes, ends, strict=True))
    ]


@rule("Split")
def _split(step: Step) -> Sequence[str | None]:
    """The parts one behind the other, zeros for those the logits do not depend on."""
    make = step.make
    parts = [
        g if g is not None else make.zeros(make.shape_of(name))
        for g, name in zip(step.cotangents, step.node.output, strict=True)
    ]
    return [make.concat(parts, step.attribute("axis", 0))]


@rule("Slice")
def _slice(step: Step) -> Sequence[str | None]:
    """ȳ with zeros where numbers were left out."""
    shape, taken = step.shape(step.x), step.shape(step.y)
    starts, ends = step.numbers(1, "starts"), step.numbers(2, "ends")
    axes = step.numbers(3, "axes") or tuple(range(len(starts)))
    steps = step.numbers(4, "steps") or (1,) * len(axes)
    pads = np.zeros((2, len(shape)), np.int64)
    for axis, start, stride in zip((a % len(shape) for a in axes), starts, steps, strict=True):
        size = shape[axis]
        if stride != 1:
            return [strided(step, axes, starts, ends, steps)]
        first = max(start + size, 0) if start < 0 else min(start, size)
        pads[:, axis] = first, size - first - taken[axis]
    return [step.make.pad(step.g, [int(pad) for pad in pads.reshape(-1)])]


def strided(
    step: Step, axes: Sequence[int], starts: Sequence[int], ends: Sequence[int], steps: Sequence[int]
) -> str:
    """Along each axis the product with the 0-1 matrix that picked the numbers."""
    make, g = step.make, step.g
    shape = step.shape(step.x)
    for axis, start, end, stride in zip(axes, starts, ends, steps, strict=True):
        size = shape[axis]
        first = start + size if start < 0 else start
        last = end + size if -size <= end < 0 else end
        if stride < 0:
            picked = range(min(first, size - 1), max(last, -1), stride)
        else:
            picked = range(max(first, 0), min(last, size), stride)
        g = spread(step, g, list(picked), axis % len(shape), size)
    return make.add("Identity", g)


def spread(step: Step, g: str, picked: Sequence[int], axis: int, size: int) -> str:
    """Numbers picked along an axis put back where they were; what was picked twice is summed."""
    matrix = np.zeros((len(picked), size))
    matrix[np.arange(len(picked)), picked] = 1.0
    rank = len(step.shape(step.x))
    order = [*(other for other in range(rank) if other != axis), axis]
    make = step.make
    moved = make.add("MatMul", make.transpose(g, order), make.constant(matrix))
    return make.transpose(moved, [int(place) for place in np.argsort(order)])


@rule("Gather")
def _gather(step: Step) -> Sequence[str | None]:
    """What was picked by constant indices is put back in its place, zeros elsewhere."""
    indices = step.constant(step.input(1))
    if indices is None:
        raise step.refuse("its indices depend on the picture")
    shape = step.shape(step.x)
    axis = step.attribute("axis", 0) % len(shape)
    size = shape[axis]
    make = step.make
    picked = [int(index) % size for index in np.ravel(indices)]
    if indices.ndim == 0:
        pads = np.zeros((2, len(shape)), np.int64)
        pads[:, axis] = picked[0], size - 1 - picked[0]
        return [make.pad(make.unsqueeze(step.g, [axis]), [int(pad) for pad in pads.reshape(-1)])]
    g = step.g
    if indices.ndim > 1:
        flat = make.concat(
            [
                make.slice(make.shape_of(step.x), [0], [axis], [0]),
                make.indices([len(picked)]),
                make.slice(make.shape_of(step.x), [axis + 1], [EVERYTHING], [0]),
            ],
            0,
        )
        g = make.reshape(g, flat)
    return [spread(step, g, picked, axis, size)]


@rule("Expand")
def _expand(step: Step) -> Sequence[str | None]:
    return [step.make.sum_to(step.g, step.shape(step.y), step.x, step.shape(step.x))]


@rule("Tile")
def _tile(step: Step) -> Sequence[str | None]:
    """The copies summed: each tiled axis taken apart into copies and numbers."""
    repeats = step.constant(step.input(1))
    if repeats is None:
        raise step.refuse("its repeats depend on the picture")
    make = step.make
    g, sizes = step.g, make.shape_of(step.x)
    parts: list[str] = []
    for axis, count in enumerate(np.ravel(repeats)):
        parts += [make.indices([int(count)]), make.slice(sizes, [axis], [axis + 1], [0])]
    apart = make.reshape(g, make.concat(parts, 0))
    copies = [2 * axis for axis in range(len(np.ravel(repeats)))]
    return [make.reshaped_like(make.reduce_sum(apart, copies, keepdims=False), step.x)]


@rule("Pad")
def _pad(step: Step) -> Sequence[str | None]:
    """Constant padding is cut off again."""
    if step.attribute("mode", "constant") != "constant":
        raise step.refuse(f"padding by {step.attribute('mode')!r} has no rule")
    pads = step.numbers(1, "pads") or step.numbers(1, "paddings")
    rank = len(step.shape(step.x))
    axes = [axis % rank for axis in step.numbers(3, "axes")] or list(range(rank))
    whole = np.zeros((2, rank), np.int64)
    whole[:, axes] = np.reshape(pads, (2, -1))
    if whole.min() < 0:
        raise step.refuse("negative padding has no rule")
    begin, end = whole.tolist()
    return [step.make.crop(step.g, begin, end)]


@rule("DepthToSpace")
def _depth_to_space(step: Step) -> Sequence[str | None]:
    """SpaceToDepth; the order "CRD" has its channels exchanged as well."""
    size = step.attribute("blocksize")
    make = step.make
    back = make.add("SpaceToDepth", step.g, blocksize=size)
    if step.attribute("mode", "DCR") == "DCR":
        return [back]
    channels = step.shape(step.y)[1]
    order = np.arange(size * size * channels).reshape(size * size, channels).T.reshape(-1)
    return [make.add("Gather", back, make.indices([int(i) for i in order]), axis=1)]


@rule("SpaceToDepth")
def _space_to_depth(step: Step) -> Sequence[str | None]:
    return [step.make.add("DepthToSpace", step.g, blocksize=step.attribute("blocksize"))]
