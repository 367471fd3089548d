"""Operators that act on each number by itself: x̄ = f'(x)·ȳ."""

from __future__ import annotations

from collections.abc import Sequence

from camrt.export.adjoint.steps import Step, rule

__all__: list[str] = []


@rule("Identity", "Cast", "Dropout")
def _same(step: Step) -> Sequence[str | None]:
    return [step.g]


@rule("Relu")
def _relu(step: Step) -> Sequence[str | None]:
    """y = max(x, 0): ȳ where y > 0; at the corner nothing passes."""
    make = step.make
    passed = make.masked(step.g, make.add("Greater", step.y, make.number(0.0)))
    if step.relu == "guided":
        passed = make.add("Relu", passed)
    return [passed]


@rule("Add", "Sum")
def _add(step: Step) -> Sequence[str | None]:
    return [step.make.sum_to(step.g, step.shape(step.y), name, step.shape(name)) for name in step.node.input]
