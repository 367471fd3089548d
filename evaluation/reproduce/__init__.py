"""The published tables of three papers, measured again on any model and pictures.

    from camrt.evaluation.reproduce import Options, reproduce
    reproduce("pixab-5", engine, "pictures", options=Options(limit=100)).row("pixab").figures["energy"]

Everything is imported when it is asked for, so that the command line is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from camrt.evaluation.reproduce.catalogue import CATALOGUE
    from camrt.evaluation.reproduce.options import Options
    from camrt.evaluation.reproduce.published import PUBLISHED
    from camrt.evaluation.reproduce.rows import Figure, Reproduced, Row
    from camrt.evaluation.reproduce.running import Run
    from camrt.evaluation.reproduce.tables import TABLES, reproduce

__all__ = ["CATALOGUE", "PUBLISHED", "TABLES", "Figure", "Options", "Reproduced", "Row", "Run", "reproduce"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "catalogue": ["CATALOGUE"],
        "options": ["Options"],
        "published": ["PUBLISHED"],
        "rows": ["Figure", "Reproduced", "Row"],
        "running": ["Run"],
        "tables": ["TABLES", "reproduce"],
    },
)
