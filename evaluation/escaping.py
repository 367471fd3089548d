"""Escapes untrusted text (names of files, classes, methods, models) for Markdown and JSON."""

from __future__ import annotations

import json
import re
from typing import Any

from camrt.engine.printable import replace_unprintable

__all__ = ["escape_markdown", "to_json_bytes"]


def escape_markdown(text: str) -> str:
    """Text for a line or a table's cell of Markdown: nothing in it is markup, and it stays on its line."""
    return re.sub(r"([\\`*_\[\]<>|~&])", r"\\\1", replace_unprintable(text))


def to_json_bytes(value: Any) -> bytes:
    """A value as JSON in UTF-8; bytes of a file name that are no text become escapes.

    Raises:
        ValueError: A number that is not finite.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace")
