"""Files of drawings: which formats there are, and writing one whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from camrt.errors import InputError
from camrt.export.io.atomic_files import open_atomic

__all__ = ["DrawingFormat", "check_drawing_format", "write_drawing"]

DrawingFormat = Literal["png", "jpeg", "webp", "pdf", "svg"]
"""What drawings are written as; each is the suffix as well."""

QUALITY = 90  # of JPEG and WebP


def check_drawing_format(given: Any) -> None:
    """Refuses what is no format of drawings.

    Raises:
        InputError: It is none.
    """
    if given not in get_args(DrawingFormat):
        raise InputError(
            f"format={given!r:.80} must be one of {', '.join(map(repr, get_args(DrawingFormat)))}"
        )


def write_drawing(path: Path, drawing: Any, kind: DrawingFormat) -> None:
    """Writes a drawing.

    Args:
        path: Of the file.
        drawing: A Pillow image; or a figure of matplotlib, for "pdf" and "svg".
        kind: The file's format.

    Raises:
        StorageError: It cannot be written.
    """
    with open_atomic(path) as file:
        if kind in ("pdf", "svg"):
            drawing.savefig(file, format=kind, metadata={"Date" if kind == "svg" else "CreationDate": None})
        elif kind == "png":
            drawing.save(file, format="PNG")
        else:
            drawing.save(file, format=kind.upper(), quality=QUALITY)
