"""Circular and hyperbolic functions and their inverses: x̄ = f'(x)·ȳ."""

from __future__ import annotations

from collections.abc import Sequence

from camrt.export.adjoint.registry import BackwardStep, rule
from camrt.export.adjoint.rules.activations import multiply_slope

__all__: list[str] = []


@rule("Sin")
def _sin(step: BackwardStep) -> Sequence[str | None]:
    return multiply_slope(step, step.make.add("Cos", step.x))


@rule("Cos")
def _cos(step: BackwardStep) -> Sequence[str | None]:
    return multiply_slope(step, step.make.add("Neg", step.make.add("Sin", step.x)))


@rule("Tan")
def _tan(step: BackwardStep) -> Sequence[str | None]:
    """y = tan x: 1 + y²."""
    return multiply_slope(step, one_plus(step, step.y, 1.0))


@rule("Sinh")
def _sinh(step: BackwardStep) -> Sequence[str | None]:
    return multiply_slope(step, step.make.add("Cosh", step.x))


@rule("Cosh")
def _cosh(step: BackwardStep) -> Sequence[str | None]:
    return multiply_slope(step, step.make.add("Sinh", step.x))


def one_plus(step: BackwardStep, t: str, sign: float) -> str:
    """1 ± t²."""
    make = step.make
    square = make.add("Mul", t, t)
    return make.add("Add" if sign > 0 else "Sub", make.number(1.0), square)


def over_root(step: BackwardStep, square: str, sign: float = 1.0) -> Sequence[str | None]:
    """±ȳ/√s, and nothing where s is zero."""
    make = step.make
    g = step.g if sign > 0 else make.add("Neg", step.g)
    root = make.add("Sqrt", square)
    return [make.divide_or_zero(make.add("Div", g, root), root)]


@rule("Asin")
def _asin(step: BackwardStep) -> Sequence[str | None]:
    """y = arcsin x: ȳ/√(1 − x²)."""
    return over_root(step, one_plus(step, step.x, -1.0))


@rule("Acos")
def _acos(step: BackwardStep) -> Sequence[str | None]:
    """y = arccos x: −ȳ/√(1 − x²)."""
    return over_root(step, one_plus(step, step.x, -1.0), -1.0)


@rule("Asinh")
def _asinh(step: BackwardStep) -> Sequence[str | None]:
    """y = arsinh x: ȳ/√(x² + 1)."""
    return over_root(step, one_plus(step, step.x, 1.0))


@rule("Acosh")
def _acosh(step: BackwardStep) -> Sequence[str | None]:
    """y = arcosh x: ȳ/√(x² − 1)."""
    return over_root(step, step.make.add("Neg", one_plus(step, step.x, -1.0)))


@rule("Atan")
def _atan(step: BackwardStep) -> Sequence[str | None]:
    """y = arctan x: ȳ/(1 + x²)."""
    return [step.make.add("Div", step.g, one_plus(step, step.x, 1.0))]


@rule("Atanh")
def _atanh(step: BackwardStep) -> Sequence[str | None]:
    """y = artanh x: ȳ/(1 − x²)."""
    make = step.make
    return [make.multiply_or_zero(make.add("Div", step.g, one_plus(step, step.x, -1.0)), step.g)]
