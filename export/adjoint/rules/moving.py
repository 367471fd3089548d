"""Operators that move numbers about without changing one."""

from __future__ import annotations

from collections.abc import Sequence

from camrt.export.adjoint.steps import Step, rule

__all__: list[str] = []


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshaped(step: Step) -> Sequence[str | None]:
    """The same numbers in the input's shape."""
    return [step.make.reshaped_like(step.g, step.x)]
