"""Operators that take axes together."""

from __future__ import annotations

from collections.abc import Sequence

from camrt.export.adjoint.registry import BackwardStep, rule

__all__: list[str] = []


def count_cells(step: BackwardStep, axes: Sequence[int]) -> str:
    """How many numbers the axes of the node's input hold, as a float."""
    make = step.make
    sizes = make.add("Gather", make.shape_of(step.x), make.indices(list(axes)), axis=0)
    return make.as_float(make.add("ReduceProd", sizes, keepdims=0))


@rule("GlobalAveragePool")
def _global_average(step: BackwardStep) -> Sequence[str | None]:
    """y = (1/hw)·Σ x: every cell gets ȳ/(hw)."""
    axes = range(2, len(step.shape(step.x)))
    return [step.make.expanded_like(step.make.add("Div", step.g, count_cells(step, axes)), step.x)]


def reduced_axes(step: BackwardStep) -> list[int] | None:
    """The axes a reduction runs over, not negative; None when it does nothing."""
    rank = len(step.shape(step.x))
    axes = step.numbers(1, "axes")
    if not axes:
        return None if step.attribute("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(axis % rank for axis in axes)


def keep_axes(step: BackwardStep, name: str, axes: Sequence[int]) -> str:
    """A tensor of the reduction's shape, with axes of size one where the input was reduced."""
    return name if step.attribute("keepdims", 1) else step.make.unsqueeze(name, axes)


@rule("ReduceSum")
def _sum(step: BackwardStep) -> Sequence[str | None]:
    axes = reduced_axes(step)
    return [step.g if axes is None else step.make.expanded_like(keep_axes(step, step.g, axes), step.x)]


@rule("ReduceMean")
def _mean(step: BackwardStep) -> Sequence[str | None]:
    axes = reduced_axes(step)
    if axes is None:
        return [step.g]
    share = step.make.add("Div", keep_axes(step, step.g, axes), count_cells(step, axes))
    return [step.make.expanded_like(share, step.x)]


@rule("ReduceMax", "ReduceMin")
def _extreme(step: BackwardStep) -> Sequence[str | None]:
    """ȳ to the largest (smallest) number; equal ones share it evenly."""
    axes = reduced_axes(step)
    make = step.make
    if axes is None:
        return [step.g]
    winners = make.as_float(make.add("Equal", step.x, keep_axes(step, step.y, axes)))
    share = make.add("Div", keep_axes(step, step.g, axes), make.reduce_sum(winners, axes, keepdims=True))
    return [make.add("Mul", winners, share)]


@rule("GlobalMaxPool")
def _global_max(step: BackwardStep) -> Sequence[str | None]:
    """ȳ to the largest number of each map; of equal ones to the first in row-major order."""
    make = step.make
    flat = make.reshape(step.x, [0, 0, -1])
    first = make.first_of(make.add("Equal", flat, make.reshape(step.y, [0, 0, 1])), 2)
    spread = make.masked(make.reshape(step.g, [0, 0, 1]), first)
    return [make.reshaped_like(spread, step.x)]


@rule("ReduceL2")
def _euclidean(step: BackwardStep) -> Sequence[str | None]:
    """y = √Σx²: x/y·ȳ, and nothing where y is zero."""
    axes = reduced_axes(step)
    make = step.make
    if axes is None:
        return [make.add("Mul", step.g, make.add("Sign", step.x))]
    length = keep_axes(step, step.y, axes)
    share = make.add("Mul", step.x, make.add("Div", keep_axes(step, step.g, axes), length))
    return [make.masked(share, make.add("Greater", make.expanded_like(length, step.x), make.number(0.0)))]


@rule("ReduceL1")
def _absolute(step: BackwardStep) -> Sequence[str | None]:
    """y = Σ|x|: sign(x)·ȳ."""
    axes = reduced_axes(step)
    g = step.g if axes is None else keep_axes(step, step.g, axes)
    return [step.make.add("Mul", step.make.add("Sign", step.x), g)]


@rule("ReduceSumSquare")
def _square(step: BackwardStep) -> Sequence[str | None]:
    """y = Σx²: 2x·ȳ."""
    axes = reduced_axes(step)
    g = step.g if axes is None else keep_axes(step, step.g, axes)
    return [step.make.add("Mul", step.make.add("Add", step.x, step.x), g)]


@rule("ReduceLogSumExp")
def _log_sum(step: BackwardStep) -> Sequence[str | None]:
    """y = log Σe^x: e^(x−y)·ȳ."""
    axes = reduced_axes(step)
    make = step.make
    if axes is None:
        return [step.g]
    share = make.add("Exp", make.add("Sub", step.x, keep_axes(step, step.y, axes)))
    return [make.add("Mul", share, keep_axes(step, step.g, axes))]


@rule("ReduceLogSum")
def _log_of_sum(step: BackwardStep) -> Sequence[str | None]:
    """y = log Σx: e^(−y)·ȳ."""
    axes = reduced_axes(step)
    make = step.make
    total = step.x if axes is None else make.add("Exp", keep_axes(step, step.y, axes))
    g = step.g if axes is None else keep_axes(step, step.g, axes)
    return [make.expanded_like(make.multiply_or_zero(make.add("Div", g, total), g), step.x)]


@rule("ReduceProd")
def _product(step: BackwardStep) -> Sequence[str | None]:
    """y = Π x: the product of the others times ȳ, which is y/x only where no number is zero."""
    axes = reduced_axes(step)
    make = step.make
    if axes is None:
        return [step.g]
    zero = make.add("Equal", step.x, make.number(0.0))
    others = make.add("Where", zero, make.number(1.0), step.x)
    product = make.reduce("ReduceProd", others, axes, keepdims=True)
    count = make.reduce_sum(make.as_float(zero), axes, keepdims=True)
    none, one = (make.add("Equal", count, make.number(float(many))) for many in (0, 1))
    left = make.add(
        "Where", zero, make.masked(product, one), make.masked(make.add("Div", product, others), none)
    )
    return [make.add("Mul", left, keep_axes(step, step.g, axes))]


@rule("CumSum")
def _running(step: BackwardStep) -> Sequence[str | None]:
    """Each number counts in the sums from its own place on: ȳ summed from the other end."""
    order = {"exclusive": step.attribute("exclusive", 0), "reverse": 1 - step.attribute("reverse", 0)}
    return [step.make.add("CumSum", step.g, step.input(1), **order)]


def signed_power(step: BackwardStep, x: str, p: float) -> str:
    """sign(x)·|x|^(p − 1), p ≥ 1."""
    make = step.make
    if p == 2.0:
        return x
    sign = make.add("Sign", x)
    return (
        sign if p == 1.0 else make.add("Mul", sign, make.add("Pow", make.add("Abs", x), make.number(p - 1.0)))
    )


def divide_by_norm_power(step: BackwardStep, p: float) -> str:
    """ȳ/y^(p − 1), and nothing where y is zero."""
    make = step.make
    if p == 1.0:
        return step.g
    below = step.y if p == 2.0 else make.add("Pow", step.y, make.number(p - 1.0))
    return make.divide_or_zero(make.add("Div", step.g, below), below)


@rule("GlobalLpPool")
def _global_norm(step: BackwardStep) -> Sequence[str | None]:
    """y = (Σ|x|^p)^(1/p): sign(x)·|x|^(p − 1)·ȳ/y^(p − 1)."""
    p = float(step.attribute("p", 2))
    return [step.make.add("Mul", signed_power(step, step.x, p), divide_by_norm_power(step, p))]
