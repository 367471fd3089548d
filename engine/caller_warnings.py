"""Warnings that point at the line of whoever called camrt, however deep they arise."""

from __future__ import annotations

import sys
import warnings

__all__ = ["warn_caller"]


def warn_caller(text: str, category: type[Warning]) -> None:
    """Warns at the innermost line outside camrt that led here.

    Args:
        text: What to say.
        category: A warning of `camrt.errors`.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and f"{frame.f_globals.get('__name__', '')}.".startswith("camrt."):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)
