"""The modules of this room that need libraries of an extra, imported when a command needs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from camrt.errors import TrainingError

__all__ = ["import_training"]


def import_training(*names: str) -> tuple[Any, ...]:
    """Modules of `camrt.training`, by name.

    Raises:
        TrainingError: A library that training needs is missing.
    """
    try:
        return tuple(import_module(f"camrt.training.{name}") for name in names)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("camrt"):
            raise
        raise TrainingError(
            f"training needs {error.name}, which is missing: pip install 'camrt[train]'"
        ) from error
