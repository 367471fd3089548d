"""Arithmetic of whole tensors. What broadcasting repeated is summed (`NodeMaker.sum_to`)."""

from __future__ import annotations

from collections.abc import Sequence

from camrt.export.adjoint.steps import Step, rule

__all__: list[str] = []


def each(step: Step, parts: Sequence[str | None]) -> list[str | None]:
    """Cotangents of the output's shape, in the shape of the input each belongs to."""
    shape = step.shape(step.y)
    return [
        None if part is None or not step.wanted(i) else step.make.sum_to(part, shape, name, step.shape(name))
        for i, (part, name) in enumerate(zip(parts, step.node.input, strict=False))
    ]


@rule("Add", "Sum")
def _add(step: Step) -> Sequence[str | None]:
    return each(step, [step.g] * len(step.node.input))


@rule("Mean")
def _mean(step: Step) -> Sequence[str | None]:
    count = len(step.node.input)
    return each(step, [step.make.add("Div", step.g, step.make.number(count))] * count)


@rule("Sub")
def _sub(step: Step) -> Sequence[str | None]:
    return each(step, [step.g, step.make.add("Neg", step.g)])


@rule("Neg")
def _neg(step: Step) -> Sequence[str | None]:
    return [step.make.add("Neg", step.g)]


@rule("Mul")
def _mul(step: Step) -> Sequence[str | None]:
    """y = a·b: b·ȳ and a·ȳ."""
    make = step.make
    return each(step, [make.add("Mul", step.g, step.input(1)), make.add("Mul", step.g, step.input(0))])


@rule("Div")
def _div(step: Step) -> Sequence[str | None]:
    """y = a/b: ȳ/b and −y·ȳ/b."""
    make = step.make
    share = make.add("Div", step.g, step.input(1))
    return each(step, [share, make.add("Neg", make.add("Mul", share, step.y))])


@rule("Pow")
def _pow(step: Step) -> Sequence[str | None]:
    """y = a^p: p·a^(p−1)·ȳ; an exponent that depends on the picture is refused."""
    if step.wanted(1):
        raise step.refuse("its exponent depends on the picture")
    make = step.make
    power = step.constant(step.input(1))
    if power is None:
        raise step.refuse("its exponent is not known")
    less = make.add("Pow", step.input(0), make.constant(power.astype("float64") - 1.0))
    return each(
        step, [make.add("Mul", make.add("Mul", step.g, less), make.constant(power.astype("float64")))]
    )


@rule("Exp")
def _exp(step: Step) -> Sequence[str | None]:
    return [step.make.add("Mul", step.g, step.y)]


@rule("Log")
def _log(step: Step) -> Sequence[str | None]:
    return [step.make.add("Div", step.g, step.x)]


@rule("Sqrt")
def _sqrt(step: Step) -> Sequence[str | None]:
    """y = √x: ȳ/(2y)."""
    make = step.make
    return [make.add("Div", step.g, make.add("Add", step.y, step.y))]


@rule("Reciprocal")
def _reciprocal(step: Step) -> Sequence[str | None]:
    """y = 1/x: −y²·ȳ."""
    make = step.make
    return [make.add("Neg", make.add("Mul", step.g, make.add("Mul", step.y, step.y)))]


@rule("Abs")
def _abs(step: Step) -> Sequence[str | None]:
    """y = |x|: sign(x)·ȳ, nothing at zero."""
    return [step.make.add("Mul", step.g, step.make.add("Sign", step.x))]


@rule("Sin")
def _sin(step: Step) -> Sequence[str | None]:
    return [step.make.add("Mul", step.g, step.make.add("Cos", step.x))]


@rule("Cos")
def _cos(step: Step) -> Sequence[str | None]:
    return [step.make.add("Neg", step.make.add("Mul", step.g, step.make.add("Sin", step.x)))]


@rule("Sign", "Floor", "Ceil", "Round")
def _flat(step: Step) -> Sequence[str | None]:
    raise step.refuse("its derivative is zero everywhere, so the gradient would say nothing")


@rule("Max", "Min")
def _extreme(step: Step) -> Sequence[str | None]:
    """y = max(a, b, ...): ȳ to the largest; equal ones share it evenly."""
    make = step.make
    winners = [make.as_float(make.add("Equal", name, step.y)) for name in step.node.input]
    count = winners[0] if len(winners) == 1 else make.add("Sum", *winners)
    share = make.add("Div", step.g, count)
    # Equal gives false for NaN: there the share is infinite and the product NaN, as it should be.
    return each(step, [make.add("Mul", share, winner) for winner in winners])


@rule("Where")
def _where(step: Step) -> Sequence[str | None]:
    """y = a where c, else b: ȳ where c, and ȳ elsewhere; the condition has no derivative."""
    make = step.make
    zero = make.number(0.0)
    condition = step.input(0)
    return each(
        step, [None, make.add("Where", condition, step.g, zero), make.add("Where", condition, zero, step.g)]
    )
