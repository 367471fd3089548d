"""Counting passes: how many images, or altered activations, were run through which part of the model."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["PassCounts"]


@dataclass
class PassCounts:
    """How much of the model was run: images, or altered activations, counted one by one.

    Attributes:
        trunk: Through the part up to the target tensor.
        head: Through the part behind it.
        full: Through the whole model.
        head_adjoint: Through the part behind the target tensor and back, for a gradient.
        full_adjoint: Through the whole model and back, for a gradient.
    """

    trunk: int = 0
    head: int = 0
    full: int = 0
    head_adjoint: int = 0
    full_adjoint: int = 0

    @property
    def images(self) -> int:
        """How many images were run, through the trunk or the whole model."""
        return self.trunk + self.full + self.full_adjoint

    def __add__(self, other: PassCounts) -> PassCounts:
        return PassCounts(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(self)))

    def __str__(self) -> str:
        parts = [f"{self.trunk} trunk", f"{self.head} head", f"{self.full} full"]
        back = (("head and back", self.head_adjoint), ("full and back", self.full_adjoint))
        return ", ".join([*parts, *(f"{count} {name}" for name, count in back if count)])
