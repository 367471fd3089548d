"""The published tables of three papers, measured again on any model and pictures.

    from camrt.evaluation.reproduce import Options, reproduce
    reproduce("pixab-objects", engine, "pictures", options=Options(limit=100)).row("pixab").figures["energy"]

Everything is imported when it is asked for, so that the command line is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camrt.evaluation.reproduce.options import Options
    from camrt.evaluation.reproduce.published import PUBLISHED
    from camrt.evaluation.reproduce.rows import Figure, Reproduced, Row
    from camrt.evaluation.reproduce.running import Run
    from camrt.evaluation.reproduce.tables import TABLES, reproduce

__all__ = ["PUBLISHED", "TABLES", "Figure", "Options", "Reproduced", "Row", "Run", "reproduce"]

_HOMES = {
    "Figure": "rows",
    "Options": "options",
    "PUBLISHED": "published",
    "Reproduced": "rows",
    "Row": "rows",
    "Run": "running",
    "TABLES": "tables",
    "reproduce": "tables",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'camrt.evaluation.reproduce' has no attribute {name!r}")
    return getattr(import_module(f"camrt.evaluation.reproduce.{_HOMES[name]}"), name)
