"""Operators that take axes together."""

from __future__ import annotations

from collections.abc import Sequence

from camrt.export.adjoint.steps import Step, rule

__all__: list[str] = []


def cells_of(step: Step, axes: Sequence[int]) -> str:
    """How many numbers the axes of the node's input hold, as a float."""
    make = step.make
    sizes = make.add("Gather", make.shape_of(step.x), make.indices(list(axes)), axis=0)
    return make.as_float(make.add("ReduceProd", sizes, keepdims=0))


@rule("GlobalAveragePool")
def _global_average(step: Step) -> Sequence[str | None]:
    """y = (1/hw)·Σ x: every cell gets ȳ/(hw)."""
    axes = range(2, len(step.shape(step.x)))
    return [step.make.expanded_like(step.make.add("Div", step.g, cells_of(step, axes)), step.x)]


def axes_of(step: Step) -> list[int] | None:
    """The axes a reduction runs over, not negative; None when it does nothing."""
    rank = len(step.shape(step.x))
    axes = step.numbers(1, "axes")
    if not axes:
        return None if step.attribute("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(axis % rank for axis in axes)


def kept(step: Step, name: str, axes: Sequence[int]) -> str:
    """A tensor of the reduction's shape, with axes of size one where the input was reduced."""
    return name if step.attribute("keepdims", 1) else step.make.unsqueeze(name, axes)


@rule("ReduceSum")
def _sum(step: Step) -> Sequence[str | None]:
    axes = axes_of(step)
    return [step.g if axes is None else step.make.expanded_like(kept(step, step.g, axes), step.x)]


@rule("ReduceMean")
def _mean(step: Step) -> Sequence[str | None]:
    axes = axes_of(step)
    if axes is None:
        return [step.g]
    share = step.make.add("Div", kept(step, step.g, axes), cells_of(step, axes))
    return [step.make.expanded_like(share, step.x)]


@rule("ReduceMax", "ReduceMin")
def _extreme(step: Step) -> Sequence[str | None]:
    """ȳ to the largest (smallest) number; equal ones share it evenly."""
    axes = axes_of(step)
    make = step.make
    if axes is None:
        return [step.g]
    winners = make.as_float(make.add("Equal", step.x, kept(step, step.y, axes)))
    share = make.add("Div", kept(step, step.g, axes), make.reduce_sum(winners, axes, keepdims=True))
    return [make.add("Mul", winners, share)]


@rule("GlobalMaxPool")
def _global_max(step: Step) -> Sequence[str | None]:
    """ȳ to the largest number of each map; of equal ones to the first in row-major order."""
    make = step.make
    flat = make.reshape(step.x, [0, 0, -1])
    first = make.first_of(make.add("Equal", flat, make.reshape(step.y, [0, 0, 1])), 2)
    spread = make.masked(make.reshape(step.g, [0, 0, 1]), first)
    return [make.reshaped_like(spread, step.x)]


@rule("ReduceL2")
def _euclidean(step: Step) -> Sequence[str | None]:
    """y = √Σx²: x/y·ȳ, and nothing where y is zero."""
    axes = axes_of(step)
    make = step.make
    if axes is None:
        return [make.add("Mul", step.g, make.add("Sign", step.x))]
    length = kept(step, step.y, axes)
    share = make.add("Mul", step.x, make.add("Div", kept(step, step.g, axes), length))
    return [make.masked(share, make.add("Greater", make.expanded_like(length, step.x), make.number(0.0)))]


@rule("ReduceL1")
def _absolute(step: Step) -> Sequence[str | None]:
    """y = Σ|x|: sign(x)·ȳ."""
    axes = axes_of(step)
    g = step.g if axes is None else kept(step, step.g, axes)
    return [step.make.add("Mul", step.make.add("Sign", step.x), g)]


@rule("ReduceSumSquare")
def _square(step: Step) -> Sequence[str | None]:
    """y = Σx²: 2x·ȳ."""
    axes = axes_of(step)
    g = step.g if axes is None else kept(step, step.g, axes)
    return [step.make.add("Mul", step.make.add("Add", step.x, step.x), g)]


@rule("ReduceLogSumExp")
def _log_sum(step: Step) -> Sequence[str | None]:
    """y = log Σe^x: e^(x−y)·ȳ."""
    axes = axes_of(step)
    make = step.make
    if axes is None:
        return [step.g]
    share = make.add("Exp", make.add("Sub", step.x, kept(step, step.y, axes)))
    return [make.add("Mul", share, kept(step, step.g, axes))]
