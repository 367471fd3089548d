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
    """

    trunk: int = 0
    head: int = 0
    full: int = 0
