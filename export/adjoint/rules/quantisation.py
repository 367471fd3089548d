"""Quantisation, by the straight-through rule.

Rounding has derivative zero almost everywhere. The straight-through estimator ("Estimating or Propagating
Gradients Through Stochastic Neurons", Bengio et al., 2013) takes rounding for the identity: with
q = clip(round(x/s) + z) and y = (q − z)·s, the cotangent passes the pair unchanged where q is not clipped.
The clipping counts: a ReLU is often folded into the quantiser's range.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto, helper

from camrt.export.adjoint.registry import BackwardStep, rule
from camrt.export.adjoint.step_functions import STEP_FUNCTIONS, is_quantiser

__all__: list[str] = []


def broadcast_parameter(step: BackwardStep, name: str, rank: int) -> str:
    """A scale or zero point in a shape that broadcasts over the node's axis, as a float."""
    make = step.make
    value = make.as_float(name)
    if len(step.shape(name)) == 0 or rank == 0:
        return value
    shape = [1] * rank
    shape[step.attribute("axis", 1) % rank] = -1
    return make.reshape(value, shape)


@rule(*STEP_FUNCTIONS)
def _step(step: BackwardStep) -> Sequence[str | None]:
    """Derivative zero, but for a rounding that quantises: ȳ."""
    return [step.g] if is_quantiser(step.graph, step.node) else step.no_gradient()


@rule("QuantizeLinear")
@rule("QuantizeLinear", domain="com.microsoft")
def _quantise(step: BackwardStep) -> Sequence[str | None]:
    """q = clip(x/s + z): ȳ/s where x/s + z lies within the type's range."""
    if step.attribute("block_size", 0):
        raise step.refuse("quantisation by blocks has no rule")
    make = step.make
    rank = len(step.shape(step.x))
    scale = broadcast_parameter(step, step.input(1), rank)
    kind = step.graph.types.get(step.input(2) or step.y, TensorProto.UINT8)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    if dtype.kind not in "iu":
        raise step.refuse("only whole-number types have a rule")
    limits = np.iinfo(dtype)
    level = make.add("Div", step.x, scale)
    if step.input(2):
        level = make.add("Add", level, broadcast_parameter(step, step.input(2), rank))
    above = make.add("Greater", level, make.number(float(limits.min)))
    below = make.add("Less", level, make.number(float(limits.max)))
    return [make.masked(make.add("Div", step.g, scale), make.add("And", above, below))]


@rule("DynamicQuantizeLinear")
def _quantise_by_range(step: BackwardStep) -> Sequence[str | None]:
    """q = x/s + z, s and z found from x's range: ȳ/s. No number lies outside its own range, and s and z stay.

    The product of (q − z) and s is x, whatever s is, so nothing comes back by way of s and z.
    """
    arriving = step.cotangents[0]
    return [None if arriving is None else step.make.add("Div", arriving, step.node.output[1])]


@rule("DequantizeLinear")
@rule("DequantizeLinear", domain="com.microsoft")
def _dequantise(step: BackwardStep) -> Sequence[str | None]:
    """y = (q − z)·s: s·ȳ."""
    if step.attribute("block_size", 0):
        raise step.refuse("quantisation by blocks has no rule")
    scale = broadcast_parameter(step, step.input(1), len(step.shape(step.x)))
    return [step.make.add("Mul", step.g, scale)]
