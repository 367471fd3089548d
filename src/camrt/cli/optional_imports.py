"""Imports of `camrt.training` by commands, whose libraries come with an extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from camrt.errors import TrainingError

__all__ = ["training_imports"]


@contextmanager
def training_imports() -> Iterator[None]:
    """Imports within it that fail for a missing library name the extra that has it.

    Raises:
        TrainingError: A library that training needs is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("camrt"):
            raise
        raise TrainingError(
            f"training needs {error.name}, which is missing: pip install 'camrt[train]'"
        ) from error
