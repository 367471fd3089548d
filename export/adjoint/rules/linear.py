"""Layers that multiply by weights."""

from __future__ import annotations

from collections.abc import Sequence

from camrt.export.adjoint.steps import Step, rule

__all__: list[str] = []


@rule("Gemm")
def _gemm(step: Step) -> Sequence[str | None]:
    """y = α·A'B' + β·C, A' = A or Aᵀ: ā' = α·ȳ·B'ᵀ; weights that depend on the picture are refused."""
    if step.wanted(1):
        raise step.refuse("its weight depends on the picture")
    across = int(not step.attribute("transB", 0))
    alpha = step.attribute("alpha", 1.0)
    if step.attribute("transA", 0):
        given = step.make.add("Gemm", step.input(1), step.g, alpha=alpha, transA=1 - across, transB=1)
    else:
        given = step.make.add("Gemm", step.g, step.input(1), alpha=alpha, transB=across)
    return [given, None, None]
