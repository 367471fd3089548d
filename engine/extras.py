"""The libraries that some questions need and others do not."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from camrt.errors import CamrtError

__all__ = ["MissingExtraError", "import_extra"]


class MissingExtraError(CamrtError, ImportError):
    """A library of an extra is not installed."""


def import_extra(module: str, extra: str = "evaluate") -> Any:
    """A module of a library that an extra installs.

    Raises:
        MissingExtraError: It is not installed; the message has the command.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingExtraError(
            f"{module.partition('.')[0]} is not installed, which this needs: pip install 'camrt[{extra}]'"
        ) from error
