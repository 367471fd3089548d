"""Operands that have to be one number, and are stored as a vector of one."""

from __future__ import annotations

from camrt.export.expanding.registry import Expansion, expansion

__all__: list[str] = []


@expansion("Clip", domain="")
def _bounds(step: Expansion) -> None:
    """Bounds are scalars; runtimes take vectors of one number too, or turn the node into one that does."""
    inputs, changed = list(step.node.input), False
    for index, name in enumerate(inputs[1:3], start=1):
        value = step.constant(name)
        if value is not None and value.ndim > 0 and value.size == 1:
            inputs[index], changed = step.store(value.reshape(()), f"{name}_scalar"), True
    if changed:
        step.add("Clip", *inputs, out=step.y, **step.attributes())
