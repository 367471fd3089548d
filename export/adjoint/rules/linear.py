"""Matrix products by MatMul and Gemm."""

from __future__ import annotations

from collections.abc import Sequence

from camrt.export.adjoint.registry import BackwardStep, rule

__all__: list[str] = []


@rule("Gemm")
def _gemm(step: BackwardStep) -> Sequence[str | None]:
    """y = α·A'B' + β·C, A' and B' transposed or not: ā' = α·ȳ·B'ᵀ, b̄' = α·A'ᵀ·ȳ, c̄ = β·ȳ in C's shape."""
    make = step.make
    plain = not step.attribute("transB", 0)
    alpha = step.attribute("alpha", 1.0)
    if step.attribute("transA", 0):
        first = make.add("Gemm", step.input(1), step.g, alpha=alpha, transA=int(not plain), transB=1)
    else:
        first = make.add("Gemm", step.g, step.input(1), alpha=alpha, transB=int(plain))
    made: list[str | None] = [first, None, None]
    if step.needs_gradient(1):
        turned = step.attribute("transA", 0)
        operands, flags = (step.input(0), step.g), {"transA": int(not turned)}
        if not plain:
            operands, flags = (step.g, step.input(0)), {"transA": 1, "transB": int(turned)}
        made[1] = make.add("Gemm", *operands, alpha=alpha, **flags)
    if step.needs_gradient(2):
        third = make.add("Mul", step.g, make.number(step.attribute("beta", 1.0)))
        made[2] = make.sum_to(third, step.shape(step.y), step.input(2), step.shape(step.input(2)))
    return made


@rule("MatMul")
def _matmul(step: BackwardStep) -> Sequence[str | None]:
    """y = A·B over the last two axes, the others broadcast: ā = ȳ·Bᵀ and b̄ = Aᵀ·ȳ.

    A vector A counts as a row, a vector B as a column, and y lacks the axis of size one that this makes.
    """
    first, second = step.input(0), step.input(1)
    left, right = step.shape(first), step.shape(second)
    make, g = step.make, step.g
    outer = list(step.shape(step.y))
    if len(left) == 1:
        g = make.unsqueeze(g, [len(outer) - 1])
        outer.insert(len(outer) - 1, 1)
    if len(right) == 1:
        g = make.unsqueeze(g, [len(outer)])
        outer.append(1)
    made: list[str | None] = [None, None]
    if step.needs_gradient(0):
        turned = make.unsqueeze(second, [0]) if len(right) == 1 else swap_last_axes(step, second, len(right))
        made[0] = make.sum_to(make.add("MatMul", g, turned), (*outer[:-1], left[-1]), first, left)
    if step.needs_gradient(1):
        turned = make.unsqueeze(first, [1]) if len(left) == 1 else swap_last_axes(step, first, len(left))
        back, shape = make.add("MatMul", turned, g), (*outer[:-2], left[-1], outer[-1])
        if len(right) == 1:
            back, shape = make.squeeze(back, [len(shape) - 1]), shape[:-1]
        made[1] = make.sum_to(back, shape, second, right)
    return made


def swap_last_axes(step: BackwardStep, name: str, rank: int) -> str:
    """A tensor with its last two axes exchanged; a constant is exchanged while the graph is built."""
    value = step.constant(name)
    order = [*range(rank - 2), rank - 1, rank - 2]
    if value is not None and value.dtype.kind == "f":
        return step.make.constant(value.transpose(order))
    return step.make.transpose(name, order)
