"""Attention in one operator, and turning queries and keys by their place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper

from camrt.export.adjoint.registry import BackwardStep, rule

__all__ = ["spell_attention"]


@rule("Attention")
def _attention(step: BackwardStep) -> Sequence[str | None]:
    """y = P·V, P = softmax(S), S = c·Q·Kᵀ + mask ("Attention Is All You Need", Vaswani et al., 2017).

    V̄ = Pᵀ·ȳ, P̄ = ȳ·Vᵀ, S̄ = P·(P̄ − Σ P̄·P), Q̄ = c·S̄·K, K̄ = c·S̄ᵀ·Q. With softcap a, S = a·tanh(S'/a)
    first. Where several heads of queries share one of keys and values, these are summed over the queries'
    heads.
    """
    make, parts = step.make, attention_parts(step)
    q, k, v = parts.operands
    queries, keys = q[1], k[1]
    scale, wide_k, wide_v, p = parts.scale, parts.wide_k, parts.wide_v, parts.weights
    capped, mask = parts.capped, step.input(3)
    cap = step.attribute("softcap", 0.0)
    g = split_heads(step, step.g, queries) if len(step.shape(step.y)) == 3 else step.g
    back_v = make.add("MatMul", swap_last_axes(step, p), g)
    of_p = make.add("MatMul", g, swap_last_axes(step, wide_v))
    tilt = make.reduce_sum(make.add("Mul", of_p, p), [3], keepdims=True)
    of_scores = make.add("Mul", p, make.add("Sub", of_p, tilt))
    of_mask = None
    if mask and step.needs_gradient(3):
        tokens = (step.shape(step.y)[-2], step.shape(step.input(1))[-2])
        shape = (step.shape(step.x)[0], queries, *tokens)
        of_mask = make.sum_to(of_scores, shape, mask, step.shape(mask))
    if cap:
        steep = make.add("Sub", make.number(1.0), make.add("Mul", capped, capped))
        of_scores = make.add("Mul", of_scores, steep)
    of_scores = make.add("Mul", of_scores, make.number(scale))
    back_q = make.add("MatMul", of_scores, wide_k)
    back_k = make.add("MatMul", swap_last_axes(step, of_scores), q[0])
    made: list[str | None] = []
    for index, back in enumerate((back_q, back_k, back_v)):
        if index and queries != keys:
            grouped = make.reshape(back, [0, keys, queries // keys, -1, (k, v)[index - 1][2]])
            back = make.reduce_sum(grouped, [2], keepdims=False)
        if len(step.shape(step.input(index))) == 3:
            back = make.reshape(make.transpose(back, [0, 2, 1, 3]), [0, 0, -1])
        made.append(back)
    return [*made, of_mask]


@dataclass(frozen=True)
class AttentionParts:
    """What an Attention node computes on its way.

    Attributes:
        operands: Queries, keys and values as (N, heads, tokens, size), with the number of heads and their
            size.
        scale: c.
        wide_k: Keys, a head for each of the queries'.
        wide_v: Values, likewise.
        capped: tanh of the scores over the softcap; empty without one.
        weights: The softmax, (N, heads, queries, keys).
    """

    operands: tuple[tuple[str, int, int], ...]
    scale: float
    wide_k: str
    wide_v: str
    capped: str
    weights: str


def attention_parts(step: BackwardStep) -> AttentionParts:
    """The nodes of an Attention up to its softmax.

    Raises:
        AdjointError: It reads keys of earlier steps, or padded lengths.
    """
    if step.input(4) or step.input(5) or step.input(6):
        raise step.refuse("with keys and values of earlier steps, or of padded lengths, it has no rule")
    make = step.make
    q, k, v = (operand_by_heads(step, index) for index in range(3))
    queries, keys = q[1], k[1]
    scale = step.attribute("scale") or 1.0 / math.sqrt(q[2])
    wide_k, wide_v = (repeat_heads(step, part[0], queries // keys) for part in (k, v))
    raw = make.add("Mul", make.add("MatMul", q[0], swap_last_axes(step, wide_k)), make.number(scale))
    cap = step.attribute("softcap", 0.0)
    capped = make.add("Tanh", make.add("Div", raw, make.number(cap))) if cap else ""
    scores = make.add("Mul", capped, make.number(cap)) if cap else raw
    mask = step.input(3)
    if step.attribute("is_causal", 0):
        ones = make.add("Add", make.zeros(make.shape_of(scores)), make.number(1.0))
        seen = make.add("Greater", make.add("Trilu", ones, upper=0), make.number(0.5))
        scores = make.add("Where", seen, scores, make.number(-np.inf))
    if mask and step.graph.types.get(mask) == TensorProto.BOOL:
        scores = make.add("Where", mask, scores, make.number(-np.inf))
    elif mask:
        scores = make.add("Add", scores, mask)
    weights = make.add("Softmax", scores, axis=-1)
    return AttentionParts((q, k, v), scale, wide_k, wide_v, capped, weights)


def spell_attention(step: BackwardStep) -> None:
    """Writes an Attention node as plain ones, which end in a tensor of its output's name."""
    make, parts = step.make, attention_parts(step)
    mixed = make.add("MatMul", parts.weights, parts.wide_v)
    if len(step.shape(step.y)) == 3:
        mixed = make.reshape(make.transpose(mixed, [0, 2, 1, 3]), [0, 0, -1])
    make.nodes.append(helper.make_node("Identity", [mixed], [step.y]))


def operand_by_heads(step: BackwardStep, index: int) -> tuple[str, int, int]:
    """An operand as (N, heads, tokens, size), its number of heads, and their size."""
    name = step.input(index)
    shape = step.shape(name)
    if len(shape) == 4:
        return name, shape[1], shape[3]
    count = step.attribute("kv_num_heads" if index else "q_num_heads")
    return split_heads(step, name, count), count, shape[2] // count


def split_heads(step: BackwardStep, name: str, count: int) -> str:
    """(N, tokens, heads·size) -> (N, heads, tokens, size)."""
    return step.make.transpose(step.make.reshape(name, [0, 0, count, -1]), [0, 2, 1, 3])


def repeat_heads(step: BackwardStep, name: str, times: int) -> str:
    """Each head as often as there are heads of queries for it."""
    if times == 1:
        return name
    make = step.make
    sizes = make.shape_of(name)
    apart = make.unsqueeze(name, [2])
    parts = [make.slice(sizes, [0], [2], [0]), make.indices([times]), make.slice(sizes, [2], [4], [0])]
    wide = make.add("Expand", apart, make.concat(parts, 0))
    whole = [make.slice(sizes, [0], [1], [0]), make.indices([-1]), make.slice(sizes, [2], [4], [0])]
    return make.reshape(wide, make.concat(whole, 0))


def swap_last_axes(step: BackwardStep, name: str) -> str:
    return step.make.transpose(name, [0, 1, 3, 2])


@rule("RotaryEmbedding")
def _rotated(step: BackwardStep) -> Sequence[str | None]:
    """Pairs of numbers are turned by an angle: ȳ is turned back, by the sines' negatives."""
    if step.needs_gradient(1) or step.needs_gradient(2) or step.needs_gradient(3):
        raise step.refuse("by how much it turns depends on the image")
    make = step.make
    rest = [step.input(3)] if step.input(3) else []
    attributes = {item.name: step.attribute(item.name) for item in step.node.attribute}
    return [
        make.add(
            "RotaryEmbedding", step.g, step.input(1), make.add("Neg", step.input(2)), *rest, **attributes
        )
    ]
