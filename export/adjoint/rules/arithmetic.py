"""Arithmetic of whole tensors. What broadcasting repeated is summed (`NodeMaker.sum_to`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from camrt.export.adjoint.registry import BackwardStep, rule
from camrt.export.adjoint.step_functions import is_detached_difference

__all__: list[str] = []


def sum_to_inputs(step: BackwardStep, parts: Sequence[str | None]) -> list[str | None]:
    """Cotangents of the output's shape, in the shape of the input each belongs to."""
    shape = step.shape(step.y)
    return [
        None
        if part is None or not step.needs_gradient(i)
        else step.make.sum_to(part, shape, name, step.shape(name))
        for i, (part, name) in enumerate(zip(parts, step.node.input, strict=False))
    ]


@rule("Add", "Sum")
def _add(step: BackwardStep) -> Sequence[str | None]:
    return sum_to_inputs(step, [step.g] * len(step.node.input))


@rule("Mean")
def _mean(step: BackwardStep) -> Sequence[str | None]:
    count = len(step.node.input)
    return sum_to_inputs(step, [step.make.add("Div", step.g, step.make.number(count))] * count)


@rule("Sub")
def _sub(step: BackwardStep) -> Sequence[str | None]:
    """y = a − b: ȳ and −ȳ; nothing where it is what a rounding changed (`is_detached_difference`)."""
    if is_detached_difference(step.graph, step.node):
        return step.no_gradient()
    return sum_to_inputs(step, [step.g, step.make.add("Neg", step.g)])


@rule("Neg")
def _neg(step: BackwardStep) -> Sequence[str | None]:
    return [step.make.add("Neg", step.g)]


@rule("Mul")
def _mul(step: BackwardStep) -> Sequence[str | None]:
    """y = a·b: b·ȳ and a·ȳ."""
    make = step.make
    return sum_to_inputs(
        step, [make.add("Mul", step.g, step.input(1)), make.add("Mul", step.g, step.input(0))]
    )


@rule("Div")
def _div(step: BackwardStep) -> Sequence[str | None]:
    """y = a/b: ȳ/b and −y·ȳ/b."""
    make = step.make
    share = make.add("Div", step.g, step.input(1))
    divisor = step.constant(step.input(1))
    if divisor is not None and np.all(divisor):
        return sum_to_inputs(step, [share])
    second = make.add("Neg", make.add("Mul", share, step.y))
    return sum_to_inputs(step, [make.multiply_or_zero(share, step.g), make.multiply_or_zero(second, step.g)])


@rule("Pow")
def _pow(step: BackwardStep) -> Sequence[str | None]:
    """y = a^p: p·a^(p−1)·ȳ, and y·log a·ȳ for the exponent; nothing at a = 0 where 0 ≤ p < 1."""
    make = step.make
    a, p = step.input(0), step.input(1)
    at_zero = make.add("Equal", a, make.number(0.0))
    power = step.constant(p)
    if power is None:
        exponent = make.add("Cast", p, to=make.element)
        steep = make.add("Less", exponent, make.number(1.0))
        steep = make.add("And", steep, make.add("Not", make.add("Less", exponent, make.number(0.0))))
        less = make.add("Sub", exponent, make.number(1.0))
    else:
        wide = power.astype(np.float64)
        exponent, less = make.constant(wide), make.constant(wide - 1.0)
        steep = make.constant((wide >= 0) & (wide < 1))
    slope = make.add("Mul", make.add("Mul", step.g, make.add("Pow", a, less)), exponent)
    if power is None or (power < 1).any():
        slope = make.masked(slope, make.add("Not", make.add("And", at_zero, steep)))
        slope = make.multiply_or_zero(slope, step.g)
    if not step.needs_gradient(1):
        return sum_to_inputs(step, [slope])
    bent = make.add("Mul", step.g, make.add("Mul", step.y, make.add("Log", a)))
    return sum_to_inputs(step, [slope, make.masked(bent, make.add("Not", at_zero))])


@rule("Exp")
def _exp(step: BackwardStep) -> Sequence[str | None]:
    return [step.make.add("Mul", step.g, step.y)]


@rule("Log")
def _log(step: BackwardStep) -> Sequence[str | None]:
    """y = log x: ȳ/x."""
    return [step.make.multiply_or_zero(step.make.add("Div", step.g, step.x), step.g)]


@rule("Sqrt")
def _sqrt(step: BackwardStep) -> Sequence[str | None]:
    """y = √x: ȳ/(2y), and nothing at zero."""
    make = step.make
    return [make.divide_or_zero(make.add("Div", step.g, make.add("Add", step.y, step.y)), step.y)]


@rule("Reciprocal")
def _reciprocal(step: BackwardStep) -> Sequence[str | None]:
    """y = 1/x: −y²·ȳ."""
    make = step.make
    return [
        make.multiply_or_zero(
            make.add("Neg", make.add("Mul", step.g, make.add("Mul", step.y, step.y))), step.g
        )
    ]


@rule("Abs")
def _abs(step: BackwardStep) -> Sequence[str | None]:
    """y = |x|: sign(x)·ȳ, nothing at zero."""
    return [step.make.add("Mul", step.g, step.make.add("Sign", step.x))]


@rule("Max", "Min")
def _extreme(step: BackwardStep) -> Sequence[str | None]:
    """y = max(a, b, ...): ȳ to the largest; equal ones share it evenly."""
    make = step.make
    winners = [make.as_float(make.add("Equal", name, step.y)) for name in step.node.input]
    count = winners[0] if len(winners) == 1 else make.add("Sum", *winners)
    share = make.add("Div", step.g, count)
    # Equal gives false for NaN: there the share is infinite and the product NaN, as it should be.
    return sum_to_inputs(step, [make.add("Mul", share, winner) for winner in winners])


@rule("Where")
def _where(step: BackwardStep) -> Sequence[str | None]:
    """y = a where c, else b: ȳ where c, and ȳ elsewhere; the condition has no derivative."""
    make = step.make
    zero = make.number(0.0)
    condition = step.input(0)
    return sum_to_inputs(
        step, [None, make.add("Where", condition, step.g, zero), make.add("Where", condition, zero, step.g)]
    )


@rule("Mod")
def _remainder(step: BackwardStep) -> Sequence[str | None]:
    """y = a − n·b, n whole: ȳ for a."""
    if step.needs_gradient(1):
        raise step.refuse("what it divides by depends on the image")
    return sum_to_inputs(step, [step.g])
