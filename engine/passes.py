"""Counting passes: how many pictures, or altered activations, were run through which part of the model."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PassCounter"]


@dataclass
class PassCounter:
    """Rows run through each part, counted one by one.

    Attributes:
        trunk: Pictures run once for their activation and logits.
        head: Altered activations (or vectors behind the first layer) run through what follows the cut.
        full: Altered pictures run through the whole model.
        head_adjoint: Activations run through the head and back, for their gradient.
        full_adjoint: Pictures run through the whole model and back, for their gradient.
    """

    trunk: int = 0
    head: int = 0
    full: int = 0
    head_adjoint: int = 0
    full_adjoint: int = 0
