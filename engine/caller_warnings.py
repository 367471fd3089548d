"""Warnings that point at the line of whoever called camrt, however deep they arise."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["silence_warnings", "warn_caller"]

_SILENT: ContextVar[tuple[type[Warning], ...]] = ContextVar("camrt_silent_warnings", default=())


@contextmanager
def silence_warnings(*categories: type[Warning]) -> Iterator[None]:
    """Gives no warnings of these categories in the block, in this thread alone."""
    token = _SILENT.set((*_SILENT.get(), *categories))
    try:
        yield
    finally:
        _SILENT.reset(token)


def warn_caller(text: str, category: type[Warning]) -> None:
    """Warns at the innermost line outside camrt that led here.

    Args:
        text: What to say.
        category: A warning of `camrt.errors`.
    """
    if issubclass(category, _SILENT.get()):
        return
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and f"{frame.f_globals.get('__name__', '')}.".startswith("camrt."):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)
