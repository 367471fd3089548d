"""Layers that ONNX Runtime joins with the activation behind them when it saves what it has optimised.

Defined in "Contrib Operators" (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from camrt.export.expanding.registry import Expansion, expansion

__all__ = ["end_with_activation"]

# By activation, the attributes that its numbers stand for, in order.
_NUMBERS = {
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "HardSwish": (),
    "Clip": ("min", "max"),
}


def end_with_activation(step: Expansion, source: str, operator: str, numbers: Sequence[float]) -> None:
    """Ends an expansion with an activation of its source; an empty name stands for none.

    Raises:
        UnsupportedModelError: An activation that is not known, or too few numbers for it.
    """
    if not operator:
        step.add("Identity", source, out=step.y)
        return
    if operator not in _NUMBERS or len(numbers) < len(_NUMBERS[operator]):
        raise step.refuse(f"is joined with an activation that camrt does not know: {operator[:120]!r}")
    stated: dict[str, Any] = dict(zip(_NUMBERS[operator], map(float, numbers), strict=False))
    if operator == "Clip" and step.opset >= 11:
        bounds = [step.store(np.float32(stated[key]), f"{step.y}_{key}") for key in ("min", "max")]
        step.add("Clip", source, *bounds, out=step.y)
        return
    if operator == "HardSwish" and step.opset < 14:
        step.add("Mul", source, step.add("HardSigmoid", source, alpha=1 / 6, beta=0.5), out=step.y)
        return
    step.add(operator, source, out=step.y, **stated)


@expansion("FusedConv")
def _convolution(step: Expansion) -> None:
    """Y = f(conv(x, w) + b + z)."""
    left_out = ("activation", "activation_params")
    made = step.add("Conv", *(step.input(i) for i in range(3)), **step.attributes(*left_out))
    if step.input(3):
        made = step.add("Add", made, step.input(3))
    end_with_activation(step, made, step.attribute("activation", ""), step.attribute("activation_params", ()))


@expansion("FusedGemm")
def _linear(step: Expansion) -> None:
    """Y = f(alpha·a·b + beta·c)."""
    own = {name: step.attribute(name) for name in ("alpha", "beta", "transA", "transB")}
    stated = {name: value for name, value in own.items() if value is not None}
    made = step.add("Gemm", *(step.input(i) for i in range(3)), **stated)
    given = {name: step.attribute(f"activation_{name}") for name in ("alpha", "beta")}
    defaults = {"LeakyRelu": {"alpha": 0.01}, "HardSigmoid": {"alpha": 0.2, "beta": 0.5}}
    operator = step.attribute("activation", "")
    numbers = [
        default if given[name] is None else given[name]
        for name, default in defaults.get(operator, {}).items()
    ]
    end_with_activation(step, made, operator, numbers)
