"""Names from outside - of files, classes, methods, models - as each format shows them and nothing else."""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any

__all__ = ["chart_text", "html_text", "json_text", "markdown_text"]


def markdown_text(text: str) -> str:
    """Text for a line or a table's cell of Markdown: nothing in it is markup, and it stays on its line."""
    return re.sub(r"([\\`*_\[\]<>|~&])", r"\\\1", _shown(text))


def html_text(text: str) -> str:
    """Text for an HTML page, in an element or in an attribute in quotes."""
    return escape(_shown(text))


def chart_text(text: str) -> str:
    """Text for matplotlib: "$" begins no formula, and "_" in front hides nothing."""
    safe = _shown(text).replace("$", r"\$")
    return f" {safe}" if safe.startswith("_") else safe


def json_text(value: Any) -> bytes:
    """A value as JSON in UTF-8; bytes of a file name that are no text become escapes.

    Raises:
        ValueError: A number that is not finite.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace")


def _shown(text: str) -> str:
    """Without characters that are not printed or that turn the line around; space of any kind is " "."""
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text
    )
