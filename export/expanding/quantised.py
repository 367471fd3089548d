"""Integer layers (QLinearConv and its like) as DequantizeLinear, the layer of floats, QuantizeLinear.

A quantised tensor q stands for real numbers x = (q − z)·s. A layer of whole numbers (`QLinearConv` and its
like) takes q's, computes y of the x's and gives round(y / t) + u of another scale t and zero point u. So it
is

    DequantizeLinear  ->  the layer of floats  ->  QuantizeLinear

by its definition. Where the runtime's own kernel adds up whole numbers and rounds once, this form rounds the
products of floats, 2⁻²⁴ of their size: a result differs only where y / t lies that near to the middle
between two whole numbers, and then by one step of the scale. ONNX Runtime joins the three nodes again when
it runs them.

What only moves whole numbers about, or takes the largest (`carry_quantised`), is computed on the real numbers
that they stand for, which changes none. Matrix products of whole numbers (`ConvInteger`, `MatMulInteger`) are
those of floats as long as no sum exceeds 2²⁴, and from there on rounded to 24 bits.

Definitions: "Operator Schemas" and "Contrib Operators" of ONNX and ONNX Runtime,
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from camrt.export.expanding.registry import RUNTIME, Expansion, QuantisedTensor, expansion
from camrt.export.graph.traversal import normalise_domain

__all__ = ["carry_quantised", "note_quantised"]

# Move elements, or choose among them: the numbers behind them are those in front.
_MOVING = frozenset(
    {
        "DepthToSpace", "Expand", "Flatten", "Gather", "GlobalMaxPool", "Identity", "MaxPool", "Pad",
        "Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
        "Upsample",
    }
)  # fmt: skip

_NIBBLES = (TensorProto.INT4, TensorProto.UINT4)


def note_quantised(step: Expansion) -> None:
    """Records the scale and zero point of the output of a QuantizeLinear that stays as it is."""
    if step.node.op_type == "QuantizeLinear" and normalise_domain(step.node.domain) in ("", RUNTIME):
        step.into.quantised[step.y] = QuantisedTensor(step.input(1), step.input(2), "")


def carry_quantised(step: Expansion) -> None:
    """Rewrites a node that moves integers about so that it moves the real numbers they stand for."""
    known = step.into.quantised.get(step.input(0))
    if known is None or normalise_domain(step.node.domain) or step.node.op_type not in _MOVING:
        return
    node = step.node
    inputs = [_real(step, step.input(0), known.scale, known.zero), *node.input[1:]]
    if node.op_type == "Pad":
        inputs = _padded(step, inputs, known)
    named = [name for name in node.output if name]
    if node.op_type == "MaxPool" and len(named) > 1:
        raise step.refuse("gives the places of the largest of whole numbers, which camrt does not take")
    outputs = [step.into.new_name(f"{name}_real") for name in named]
    step.add_many(node.op_type, inputs, outputs, **step.attributes())
    for made, name in zip(outputs, named, strict=True):
        _quantise(step, made, known.scale, known.zero, out=name)


def _padded(step: Expansion, inputs: list[str], known: QuantisedTensor) -> list[str]:
    """Pad's inputs with its value, zero where it is left out, as the real number that it stands for."""
    if step.opset < 11:
        raise step.refuse("pads whole numbers in a form that came before opset 11")
    while len(inputs) < 3:
        inputs.append("")
    if not inputs[2]:
        zero = step.constant(known.zero)
        inputs[2] = step.store(np.zeros((), np.uint8 if zero is None else zero.dtype), f"{step.y}_outside")
    inputs[2] = _real(step, inputs[2], known.scale, known.zero)
    return inputs


# ---------------------------------------------------------------- to real numbers and back


def _single(step: Expansion, name: str) -> str:
    """A scale or zero point of one number as a scalar: some files hold it as a vector."""
    value = step.constant(name)
    if value is None or value.ndim == 0 or value.size != 1:
        return name
    key = ("single", name)
    if key not in step.into.dequantised:
        step.into.dequantised[key] = step.store(value.reshape(()), f"{name}_scalar")
    return step.into.dequantised[key]


def _real(step: Expansion, name: str, scale: str, zero: str, *, axis: int | None = None) -> str:
    """The real numbers that whole ones stand for; made once.

    Args:
        step: The node that reads them.
        name: The whole numbers.
        scale: Their scale: one number, or one for each place along an axis.
        zero: Their zero point; empty for none.
        axis: That axis.
    """
    single = _single(step, scale)
    stated = step.constant(single)
    by_axis = axis is not None and (stated is None or stated.ndim > 0)
    key = (name, scale, zero, str(axis) if by_axis else "")
    if key in step.into.dequantised:
        return step.into.dequantised[key]
    known = step.into.quantised.get(name)
    wish = step.into.new_name(f"{name}_dequantised")
    called = known.maker if known is not None else ""
    if not by_axis:
        made = step.add("DequantizeLinear", name, single, _single(step, zero), out=wish, name=called)
    elif step.opset >= 13:
        made = step.add("DequantizeLinear", name, scale, zero, out=wish, name=called, axis=axis)
    else:
        made = _weights(step, name, scale, zero, axis or 0)
    step.into.dequantised[key] = made
    return made


def _weights(step: Expansion, name: str, scale: str, zero: str, axis: int) -> str:
    """Stored whole numbers as real ones: before opset 13 no operator takes a scale for each channel."""
    whole, scales, zeros = step.constant(name), step.constant(scale), step.constant(zero)
    if whole is None or scales is None or (zero and zeros is None):
        raise step.refuse("has computed weights with a scale for each channel, which takes opset 13")
    shift = np.zeros(1, np.float32) if zeros is None else zeros.astype(np.float32)
    channels = whole.shape[axis] if whole.ndim else 0
    if scales.size != channels or shift.size not in (1, channels):
        raise step.refuse(f"has {channels} channels, and scales or zero points for another number")
    shape = [1] * whole.ndim
    shape[axis] = -1
    shift = shift.reshape(shape)
    return step.store((whole.astype(np.float32) - shift) * scales.reshape(shape), f"{name}_dequantised")


def _quantise(step: Expansion, name: str, scale: str, zero: str, *, out: str) -> None:
    """Ends an expansion with a quantiser."""
    step.add("QuantizeLinear", name, _single(step, scale), _single(step, zero), out=out, name="")
    step.into.quantised[out] = QuantisedTensor(scale, zero, step.node.name)


def _read(step: Expansion, first: int, axis: int | None = None) -> str:
    """The real numbers of three inputs: whole numbers, scale and zero point."""
    return _real(step, step.input(first), step.input(first + 1), step.input(first + 2), axis=axis)


def _end(step: Expansion, made: str, first: int) -> None:
    """Ends with a quantiser whose scale and zero point are two inputs; without a scale, with real numbers."""
    if step.input(first):
        _quantise(step, made, step.input(first), step.input(first + 1), out=step.y)
    else:
        step.add("Identity", made, out=step.y)


def _product(step: Expansion, left: str, right: str, factor: float = 1.0) -> str:
    """The product of two scales, which sums of products have."""
    first, second = step.constant(left), step.constant(right)
    if first is None or second is None:
        made = step.add("Mul", left, right)
        return made if factor == 1.0 else step.add("Mul", made, step.store(np.float32(factor), f"{made}_by"))
    if first.size != second.size and 1 not in (first.size, second.size):
        raise step.refuse(f"has scales for {first.size} and for {second.size} channels")
    product = np.float32(factor) * first.reshape(-1) * second.reshape(-1)
    return step.store(product.reshape(() if product.size == 1 else (-1,)), f"{step.y}_scale_of_sums")


def _channels_first(step: Expansion, name: str) -> str:
    """A map with its channels behind the batch axis."""
    if not step.attribute("channels_last", 0):
        return name
    return step.add("Transpose", name, perm=[0, 3, 1, 2])


def _channels_back(step: Expansion, name: str) -> str:
    """A map in the order of axes that the node itself has."""
    if not step.attribute("channels_last", 0):
        return name
    return step.add("Transpose", name, perm=[0, 2, 3, 1])


# ---------------------------------------------------------------- layers


@expansion("QLinearConv", domain="")
@expansion("QLinearConv")
def _convolution(step: Expansion) -> None:
    """Inputs x, s, z, w, s, z, t, u, b; the bias is in units of the product of the scales."""
    x = _channels_first(step, _read(step, 0))
    inputs = [x, _read(step, 3, axis=0)]
    if step.input(8):
        scale = _product(step, step.input(1), step.input(4))
        inputs.append(_real(step, step.input(8), scale, "", axis=0))
    made = step.add("Conv", *inputs, **step.attributes("channels_last"))
    _end(step, _channels_back(step, made), 6)


@expansion("QLinearMatMul", domain="")
def _matrices(step: Expansion) -> None:
    """Inputs a, s, z, b, s, z, t, u; b may have a scale for each column."""
    _end(step, step.add("MatMul", _read(step, 0), _read(step, 3, axis=-1)), 6)


@expansion("QGemm")
def _linear(step: Expansion) -> None:
    """Inputs a, s, z, b, s, z, c, t, u; c is in units of alpha times the product of the scales."""
    turned = step.attribute("transB", 0)
    inputs = [_read(step, 0), _read(step, 3, axis=0 if turned else 1)]
    if step.input(6):
        scale = _product(step, step.input(1), step.input(4), step.attribute("alpha", 1.0))
        inputs.append(_real(step, step.input(6), scale, "", axis=(step.rank(step.input(6)) or 1) - 1))
    _end(step, step.add("Gemm", *inputs, **step.attributes()), 7)


@expansion("QLinearAdd", "QLinearMul")
def _pair(step: Expansion) -> None:
    """Inputs a, s, z, b, s, z, t, u."""
    operator = step.node.op_type.removeprefix("QLinear")
    _end(step, step.add(operator, _read(step, 0), _read(step, 3)), 6)


@expansion("QLinearSigmoid", "QLinearLeakyRelu")
def _activation(step: Expansion) -> None:
    """Inputs x, s, z, t, u."""
    operator = step.node.op_type.removeprefix("QLinear")
    _end(step, step.add(operator, _read(step, 0), **step.attributes()), 3)


@expansion("QLinearSoftmax")
def _softmax(step: Expansion) -> None:
    """Inputs x, s, z, t, u; `opset` says which definition of the axis holds."""
    axis, meant = step.attribute("axis", -1), step.attribute("opset", step.opset)
    last = axis in (-1, (step.rank(step.input(0)) or 0) - 1)
    if (meant < 13) != (step.opset < 13) and not last:
        raise step.refuse(f"is a softmax of opset {meant} in a file of opset {step.opset}")
    _end(step, step.add("Softmax", _read(step, 0), axis=axis), 3)


@expansion("QLinearAveragePool", "QLinearGlobalAveragePool")
def _average(step: Expansion) -> None:
    """Inputs x, s, z, t, u."""
    operator = step.node.op_type.removeprefix("QLinear")
    x = _channels_first(step, _read(step, 0))
    _end(step, _channels_back(step, step.add(operator, x, **step.attributes("channels_last"))), 3)


@expansion("NhwcMaxPool")
def _largest(step: Expansion) -> None:
    """The largest of whole numbers in windows of maps whose channels come last."""
    known = step.into.quantised.get(step.input(0))
    if known is None:
        raise step.refuse("takes whole numbers whose scale is not known")
    x = step.add("Transpose", _real(step, step.input(0), known.scale, known.zero), perm=[0, 3, 1, 2])
    made = step.add("Transpose", step.add("MaxPool", x, **step.attributes()), perm=[0, 2, 3, 1])
    _quantise(step, made, known.scale, known.zero, out=step.y)


@expansion("QLinearConcat")
def _concat(step: Expansion) -> None:
    """Inputs t, u, then x, s, z of each part."""
    parts = [_read(step, first) for first in range(2, len(step.node.input), 3)]
    _end(step, step.add("Concat", *parts, axis=step.attribute("axis", 1)), 0)


@expansion("QLinearWhere")
def _where(step: Expansion) -> None:
    """Inputs condition, x, s, z, y, s, z, t, u."""
    _end(step, step.add("Where", step.input(0), _read(step, 1), _read(step, 4)), 7)


# ---------------------------------------------------------------- scales found while running


def _less_zero_point(step: Expansion, first: int, zero: int, axis: int | None) -> str:
    """Whole numbers less their zero point, as floats."""
    name, point = step.input(first), step.input(zero)
    shift = step.constant(point)
    by_axis = axis is not None and shift is not None and shift.size > 1
    ones = np.ones(shift.shape if by_axis and shift is not None else (), np.float32)
    key = ("one", str(ones.size))
    if key not in step.into.dequantised:
        step.into.dequantised[key] = step.store(ones, "unit_scale")
    return _real(step, name, step.into.dequantised[key], point, axis=axis if by_axis else None)


def _whole(step: Expansion, made: str) -> None:
    """Ends with whole numbers; a Cast of them to floats, which is what mostly follows, reads the floats."""
    step.into.floats[step.y] = made
    step.add("Cast", made, out=step.y, to=TensorProto.INT32)


@expansion("ConvInteger", domain="")
def _convolution_of_counts(step: Expansion) -> None:
    """Inputs x, w, z of x, z of w."""
    inputs = [_less_zero_point(step, 0, 2, None), _less_zero_point(step, 1, 3, 0)]
    _whole(step, step.add("Conv", *inputs, **step.attributes()))


@expansion("MatMulInteger", domain="")
def _matrices_of_counts(step: Expansion) -> None:
    """Inputs a, b, z of a, z of b; that of b may be one for each column."""
    _whole(step, step.add("MatMul", _less_zero_point(step, 0, 2, None), _less_zero_point(step, 1, 3, -1)))


@expansion("Cast", domain="")
def _cast(step: Expansion) -> None:
    made = step.into.floats.get(step.input(0))
    if made is not None and step.attribute("to") == TensorProto.FLOAT:
        step.add("Identity", made, out=step.y)


def _biased(step: Expansion, made: str, bias: str) -> None:
    if bias:
        step.add("Add", made, bias, out=step.y)
    else:
        step.add("Identity", made, out=step.y)


@expansion("MatMulIntegerToFloat")
def _matrices_to_floats(step: Expansion) -> None:
    """Inputs a, b, s of a, s of b, z of a, z of b, bias."""
    left = _real(step, step.input(0), step.input(2), step.input(4))
    right = _real(step, step.input(1), step.input(3), step.input(5), axis=-1)
    _biased(step, step.add("MatMul", left, right), step.input(6))


@expansion("DynamicQuantizeMatMul")
def _matrices_by_range(step: Expansion) -> None:
    """Inputs a (floats, quantised by their range), b, s of b, z of b, bias."""
    whole, scale, zero = (step.into.new_name(f"{step.y}_{part}") for part in ("whole", "scale", "zero"))
    step.add_many("DynamicQuantizeLinear", [step.input(0)], [whole, scale, zero])
    right = _real(step, step.input(1), step.input(2), step.input(3), axis=-1)
    _biased(step, step.add("MatMul", _real(step, whole, scale, zero), right), step.input(4))


# ---------------------------------------------------------------- the quantisers themselves


@expansion("QuantizeLinear", "DequantizeLinear")
def _quantisers(step: Expansion) -> None:
    """The runtime's own took 4 and 16 bits before ONNX's did, in opset 21."""
    zero = step.into.constants.get(step.input(2))
    known = zero is not None and onnx.defs.has(step.node.op_type, step.opset)
    if zero is None or not known:
        return
    stored = step.into.constants.get(step.input(0))
    nibbles = zero.data_type in _NIBBLES and stored is not None and stored.data_type in _NIBBLES
    if nibbles and step.opset < 21 and step.attribute("block_size", 0) == 0:
        _widened(step)
        return
    formal = onnx.defs.get_schema(step.node.op_type, step.opset).inputs[2]
    if f"tensor({TensorProto.DataType.Name(zero.data_type).lower()})" not in formal.types:
        return
    axis = step.attribute("axis")
    named = {"axis": axis} if axis is not None and step.opset >= 13 and zero.dims else {}
    if step.node.op_type == "QuantizeLinear":
        note_quantised(step)
    step.add(step.node.op_type, *step.node.input, out=step.y, **named)


def _widened(step: Expansion) -> None:
    """A dequantiser of stored numbers of 4 bits, which are numbers of 8 bits too."""
    wide: list[str] = []
    for index in (0, 2):
        name = step.input(index)
        values = step.constant(name)
        kind = np.int8 if step.into.constants[name].data_type == TensorProto.INT4 else np.uint8
        wide.append(step.store(np.asarray(values).astype(kind), f"{name}_of_8_bits"))
    axis = step.attribute("axis", 1)
    by_axis = (step.rank(step.input(1)) or 0) > 0 and step.opset >= 13
    step.add(
        "DequantizeLinear", wide[0], step.input(1), wide[1], out=step.y, **({"axis": axis} if by_axis else {})
    )
