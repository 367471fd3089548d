"""Pieces of transformers that ONNX Runtime joins when it saves what it has optimised, and plain attention.

Defined in "Contrib Operators" (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md).
A form that is not plain (masks of lengths, keys of earlier steps) stays as it is.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto, helper

from camrt.export.expanding.registry import RUNTIME, Expansion, expansion

__all__: list[str] = []


def make_number(step: Expansion, value: float, like: str, wish: str) -> str:
    """A number in the type of a tensor, single precision where that is not known."""
    constant = step.constant(like)
    if constant is not None:
        return step.store(np.asarray(value, constant.dtype), f"{step.y}_{wish}")
    kind = step.into.types.get(like)
    element = TensorProto.UNDEFINED if kind is None else kind.tensor_type.elem_type
    dtype = helper.tensor_dtype_to_np_dtype(element or TensorProto.FLOAT)
    return step.store(np.asarray(value, dtype), f"{step.y}_{wish}")


@expansion("BiasGelu")
def _bias_gelu(step: Expansion) -> None:
    """Y = x·(1 + erf(x/√2))/2 of x = a + b."""
    x = step.add("Add", step.input(0), step.input(1))
    if step.opset >= 20:
        step.add("Gelu", x, out=step.y)
        return
    root, one, half = (
        make_number(step, value, step.input(1), wish)
        for value, wish in ((math.sqrt(2.0), "root"), (1.0, "one"), (0.5, "half"))
    )
    share = step.add("Add", step.add("Erf", step.add("Div", x, root)), one)
    step.add("Mul", step.add("Mul", x, share), half, out=step.y)


@expansion("FastGelu")
def _fast_gelu(step: Expansion) -> None:
    """The bias by itself; the activation without one is known."""
    if step.input(1):
        x = step.add("Add", step.input(0), step.input(1))
        step.add("FastGelu", x, out=step.y, domain=RUNTIME)


@expansion("SkipLayerNormalization")
def _skip_layer_normalization(step: Expansion) -> None:
    """Y = LayerNormalization(a + b + bias); the sum is the fourth output."""
    outputs = [*step.node.output, "", "", ""]
    if any(outputs[1:3]):
        return  # the statistics
    bias = step.input(4)
    whole = outputs[3]
    total = step.add("Add", step.input(0), step.input(1), out="" if bias else whole)
    if bias:
        total = step.add("Add", total, bias, out=whole)
    epsilon = step.attribute("epsilon", 1e-12)
    parameters = [step.input(2), step.input(3)]
    step.add("LayerNormalization", total, *parameters, out=step.y, axis=-1, epsilon=epsilon)


@expansion("FusedMatMul", "TransposeMatMul")
def _product(step: Expansion) -> None:
    """Y = alpha·A'·B', A' and B' with their last two axes exchanged or not."""
    operands = []
    for index, name in enumerate("AB"):
        operand = step.input(index)
        if step.attribute(f"transBatch{name}", 0):
            return
        if step.attribute(f"trans{name}", 0):
            rank = step.rank(operand)
            if rank is None:
                return
            if rank > 1:
                order = [*range(rank - 2), rank - 1, rank - 2]
                operand = step.add("Transpose", operand, perm=order)
        operands.append(operand)
    alpha = step.attribute("alpha", 1.0)
    if alpha == 1.0:
        step.add("MatMul", *operands, out=step.y)
        return
    product = step.add("MatMul", *operands)
    step.add("Mul", product, make_number(step, alpha, step.input(0), "alpha"), out=step.y)


@expansion("Attention")
def _attention(step: Expansion) -> None:
    """Y = softmax(c·Q·Kᵀ)·V, with Q, K and V made from x by one weight."""
    weight, bias = step.constant(step.input(1)), step.constant(step.input(2))
    if weight is None or any(step.input(index) for index in range(3, len(step.node.input))):
        return
    special = ("unidirectional", "do_rotary", "past_present_share_buffer")
    if any(step.attribute(name, 0) for name in special) or any(list(step.node.output)[1:]):
        return
    sizes = step.attribute("qkv_hidden_sizes") or [weight.shape[1] // 3] * 3
    ends = np.cumsum([0, *sizes])
    parts = []
    for name, begin, end in zip("qkv", ends[:-1], ends[1:], strict=True):
        kept = step.store(np.ascontiguousarray(weight[:, begin:end]), f"{step.y}_w{name}")
        part = step.add("MatMul", step.input(0), kept)
        if bias is not None:
            part = step.add("Add", part, step.store(bias[begin:end], f"{step.y}_b{name}"))
        parts.append(part)
    add_attention(step, parts, sizes[0], step.input(1), "")


@expansion("MultiHeadAttention")
def _heads(step: Expansion) -> None:
    """Y = softmax(c·Q·Kᵀ + mask)·V of Q, K and V that are given."""
    operands = [step.input(index) for index in range(3)]
    plain = all(operands) and all(step.rank(name) == 3 for name in operands)
    unusual = [step.input(index) for index in (4, *range(6, len(step.node.input)))]
    if not plain or any(unusual) or step.attribute("unidirectional", 0) or any(list(step.node.output)[1:]):
        return
    kind = step.into.types[operands[0]].tensor_type.shape.dim[2]
    bias = step.constant(step.input(3)) if step.input(3) else None
    size = kind.dim_value if kind.HasField("dim_value") else 0
    if not size or (step.input(3) and bias is None):
        return
    if bias is not None:
        ends = [0, size, 2 * size, len(bias)]
        operands = [
            step.add("Add", operand, step.store(bias[begin:end], f"{step.y}_b{name}"))
            for name, operand, begin, end in zip("qkv", operands, ends[:-1], ends[1:], strict=True)
        ]
    add_attention(step, operands, size, step.input(3) or step.input(0), step.input(5))


def add_attention(step: Expansion, operands: list[str], size: int, like: str, mask: str) -> None:
    """Attention of operands (N, tokens, heads·size), a mask that is added or none."""
    heads = step.attribute("num_heads", 1)
    apart = step.store(np.array([0, 0, heads, -1]), f"{step.y}_heads")
    together = step.store(np.array([0, 0, -1]), f"{step.y}_together")
    orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    q, k, v = (
        step.add("Transpose", step.add("Reshape", operand, apart), perm=order)
        for operand, order in zip(operands, orders, strict=True)
    )
    scale = step.attribute("scale", 0.0) or 1.0 / math.sqrt(size // heads)
    scores = step.add("Mul", step.add("MatMul", q, k), make_number(step, scale, like, "scale"))
    if mask:
        scores = step.add("Add", scores, mask)
    answer = step.add("MatMul", step.add("Softmax", scores, axis=-1), v)
    step.add("Reshape", step.add("Transpose", answer, perm=[0, 2, 1, 3]), together, out=step.y)
