"""Importing kserve, which reads the command line of whatever program imports it."""

from __future__ import annotations

import sys
from unittest.mock import patch

from camrt.engine.extras import import_extra

__all__ = ["import_kserve"]


def import_kserve() -> None:
    """Imports kserve as if the program had no arguments; those are not meant for it.

    Raises:
        MissingExtraError: It is not installed.
    """
    with patch.object(sys, "argv", sys.argv[:1]):
        import_extra("kserve", "serve")
