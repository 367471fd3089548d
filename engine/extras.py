"""The libraries that some questions need and others do not."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from camrt.errors import CamrtError

__all__ = ["MissingExtraError", "find_imported", "import_extra"]


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


def find_imported(module: str, name: str) -> Any:
    """What a module has by a name, if the module is imported already; it is not imported here.

    Args:
        module: Whole name of the module, such as "numpy.ma".
        name: What it has.

    Returns:
        None where the module is not imported, or another thread is just importing it.
    """
    return getattr(sys.modules.get(module), name, None)
