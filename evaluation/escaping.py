"""Escapes untrusted text (names of files, classes, methods, models) for Markdown, charts and JSON."""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["escape_chart", "escape_markdown", "replace_unprintable", "to_json_bytes"]


def escape_markdown(text: str) -> str:
    """Text for a line or a table's cell of Markdown: nothing in it is markup, and it stays on its line."""
    return re.sub(r"([\\`*_\[\]<>|~&])", r"\\\1", replace_unprintable(text))


def escape_chart(text: str) -> str:
    """Text for matplotlib: "$" begins no formula, and "_" in front hides nothing."""
    safe = replace_unprintable(text).replace("$", r"\$")
    return f" {safe}" if safe.startswith("_") else safe


def to_json_bytes(value: Any) -> bytes:
    """A value as JSON in UTF-8; bytes of a file name that are no text become escapes.

    Raises:
        ValueError: A number that is not finite.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace")


def replace_unprintable(text: str) -> str:
    """Without characters that are not printed or that turn the line around; space of any kind is " "."""
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text
    )
