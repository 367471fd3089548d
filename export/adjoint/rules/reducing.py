"""Operators that take an axis together."""

from __future__ import annotations

from collections.abc import Sequence

from camrt.export.adjoint.steps import Step, rule

__all__: list[str] = []


@rule("GlobalAveragePool")
def _global_average(step: Step) -> Sequence[str | None]:
    """y = (1/hw)·Σ x: every cell gets ȳ/(hw)."""
    make = step.make
    rank = len(step.shape(step.x))
    sizes = make.slice(make.shape_of(step.x), [2], [rank], [0])
    cells = make.as_float(make.add("ReduceProd", sizes, keepdims=0))
    return [make.expanded_like(make.add("Div", step.g, cells), step.x)]
